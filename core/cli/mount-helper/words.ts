/** Options of mount(8) and fstab(5) that say when and by whom something is mounted, and not how. */
const FOR_OTHERS =
  /^(?:defaults|auto|noauto|nofail|_netdev|users?|nouser|owner|group|rw|exec|suid|dev|nosuid|nodev|(?:no|rel|nodir|strict|lazy)atime|async|silent|loud|[xX]-.*|comment=.*|uhelper=.*|helper=.*)$/;

/**
 * The words of `virtiofs-kit mount` for those of a helper of mount(8): what is mounted, where, and
 * `-o` with options by commas (mount(8), "External helpers"). What is mounted is a kind of backend,
 * such as `virtiofs-kit:s3`, as the kernel's table of mounts has it. Each option is a flag of the
 * command: `bucket=my-data`, `read-only`.
 */
export function mountWords(words: readonly string[]): readonly string[] {
  const places: string[] = [];
  const options: string[] = [];
  for (let at = 0; at < words.length; at++) {
    const word = words[at]!;
    if (word === '-o') options.push(...split(words[++at] ?? ''));
    else if (word.startsWith('-o')) options.push(...split(word.slice(2)));
    else if (word === '-t') at += 1;
    // mount(8) asks for a rehearsal.
    else if (word === '-f') return ['--version'];
    // Silence, the table of mounts, and words for people make no difference here.
    else if (!/^-[nsv]+$/.test(word)) places.push(word);
  }
  const [source = '', directory = '', ...others] = places;
  const backend = source.replace(/^virtiofs-kit:/, '');
  const given = options.filter((option) => !FOR_OTHERS.test(option)).map(flagOf);
  return ['mount', directory, '--backend', backend, '--daemon', ...given, ...others];
}

/** Splits at commas, but not within double quotes, which go. */
function split(text: string): string[] {
  const options = text.match(/(?:"[^"]*"|[^,"])+/g) ?? [];
  return options.map((option) => option.replaceAll('"', ''));
}

function flagOf(option: string): string {
  if (option === 'ro') return '--read-only';
  const [, name = '', value = ''] = /^([^=]*)(.*)$/s.exec(option) ?? [];
  return `--${name.replaceAll('_', '-')}${value}`;
}
