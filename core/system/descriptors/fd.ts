declare const kind: unique symbol;

/**
 * The number of a descriptor. A negative one stands for none: minus the errno where a call was
 * refused, or -1. It is a plain number at run time; the compiler keeps it apart from slots, handles
 * and sizes. A value gets its type where the kernel gives the descriptor, or where its number is
 * read from a table, a message or an option.
 */
export type Fd = number & { readonly [kind]: 'descriptor' };
