/** Environment variable with the directory of the mount that an engine serves. */
export const MOUNT_VARIABLE = 'VIRTIOFS_KIT_MOUNT';

/** Where the keeper of this engine has its mount. */
export function mountOfKeeper(): string {
  return process.env[MOUNT_VARIABLE] ?? '';
}
