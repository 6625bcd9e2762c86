/** How a mount appears to its users. */
export interface MountFlags {
  /**
   * Other users may use it too (`allow_other`); by fusermount3 only where /etc/fuse.conf has
   * `user_allow_other`.
   */
  readonly allowOther: boolean;
  readonly readOnly: boolean;
  /** Set-user-id bits count. */
  readonly setuid: boolean;
  /** Device nodes work. */
  readonly devices: boolean;
}
