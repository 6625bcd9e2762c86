/** How a mount appears to its users. */
export interface MountFlags {
  /**
   * Whether other users may use it too (`allow_other`). With fusermount3 that needs
   * `user_allow_other` in /etc/fuse.conf.
   */
  readonly allowOther: boolean;
  readonly readOnly: boolean;
  /** Whether set-user-id bits have an effect. */
  readonly setuid: boolean;
  /** Whether device files work. */
  readonly devices: boolean;
}
