/**
 * Bits of feature words that concern rings. Virtio 1.2 section 6; vhost-user "Feature bits" for
 * LOG_ALL.
 */
export const RingFeature = {
  /** The back-end logs its writes to guest memory (VHOST_F_LOG_ALL). */
  LOG_ALL: 1n << 26n,
  INDIRECT_DESC: 1n << 28n,
  EVENT_IDX: 1n << 29n,
  VERSION_1: 1n << 32n,
  RING_PACKED: 1n << 34n,
} as const;

/** Flags of a descriptor, 2.7.5. */
export const DescriptorFlag = { NEXT: 1, WRITE: 2, INDIRECT: 4 } as const;

/** Flag of the available ring: the driver needs no interrupts. 2.7.6 */
export const AVAIL_NO_INTERRUPT = 1;

/** Flag of the used ring: the device needs no notifications. 2.7.8 */
export const USED_NO_NOTIFY = 1;

/** Bytes of a descriptor: address 8, length 4, flags 2, next 2. 2.7.5 */
export const DESCRIPTOR_SIZE = 16;

/**
 * Largest queue served; the specification allows 32768 (2.7), one iovec array covers 1024 segments.
 */
export const MAX_QUEUE_SIZE = 1024;

/** Alignment of the three parts of a split ring. 2.7 */
export const Alignment = { DESCRIPTORS: 16, AVAILABLE: 2, USED: 4 } as const;

/** Bytes of the descriptor table. 2.7.5 */
export function descriptorTableBytes(size: number): number {
  return DESCRIPTOR_SIZE * size;
}

/** Bytes of the available ring: flags, idx, ring[size] and, with EVENT_IDX, used_event. 2.7.6 */
export function availableRingBytes(size: number, eventIdx: boolean): number {
  return 4 + 2 * size + (eventIdx ? 2 : 0);
}

/**
 * Bytes of the used ring: flags, idx, ring[size] of id and length and, with EVENT_IDX, avail_event.
 * 2.7.8
 */
export function usedRingBytes(size: number, eventIdx: boolean): number {
  return 4 + 8 * size + (eventIdx ? 2 : 0);
}

/** Byte offset of element 0 in the used ring; `idx` is at 2. */
export const USED_RING_OFFSET = 4;

/**
 * Whether an index that moved from `before` to `now` has passed `event`, the index at which the
 * other side wants a notification. 2.7.7.1, 2.7.10: all three are counted modulo 2^16.
 */
export function passed(event: number, now: number, before: number): boolean {
  return ((now - event - 1) & 0xffff) < ((now - before) & 0xffff);
}
