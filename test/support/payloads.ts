import { encodeMemoryTable, type Region, type StateDirection } from '../../core/vhost-user/messages.js';

// Payloads of messages that the product only receives.

/** Bytes before the region, which are not used. */
const PADDING_BYTES = 8;

/** Payload of ADD_MEM_REG and REM_MEM_REG. */
export function encodeSingleRegion(region: Region): Uint8Array {
  // A table has its count there.
  const bytes = encodeMemoryTable([region]);
  return bytes.fill(0, 0, PADDING_BYTES);
}

/** Payload of SET_DEVICE_STATE_FD, while the device is stopped. */
export function encodeStateTransfer(direction: StateDirection): Uint8Array {
  return new Uint8Array(Uint32Array.of(direction === 'save' ? 0 : 1, 0).buffer);
}
