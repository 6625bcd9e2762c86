/** One step of a sequence. Paths are below the directory of the sequence; '' is itself. */
export type Operation =
  | { readonly kind: 'create' | 'mkdir' | 'unlink' | 'rmdir' | 'read' | 'list'; readonly path: string }
  | { readonly kind: 'rename' | 'link'; readonly path: string; readonly to: string }
  | { readonly kind: 'truncate'; readonly path: string; readonly size: number }
  | {
      readonly kind: 'write';
      readonly path: string;
      readonly offset: number;
      readonly length: number;
      readonly letter: string;
    }
  | { readonly kind: 'open'; readonly path: string; readonly slot: number }
  | { readonly kind: 'close' | 'readOpen'; readonly slot: number }
  | {
      readonly kind: 'writeOpen';
      readonly slot: number;
      readonly offset: number;
      readonly length: number;
      readonly letter: string;
    };
