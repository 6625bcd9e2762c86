import { setImmediate as nextTurn } from 'node:timers/promises';

/** What a server says of a resource (RFC 4918, sections 14.24 and 15). */
export interface Resource {
  /** As it stands there: a URL or an absolute path, percent-encoded. */
  readonly href: string;
  readonly isCollection: boolean;
  /** Bytes; undefined for collections, and where the server does not say. */
  readonly length: number | undefined;
  /** Seconds since the epoch. */
  readonly modified: number | undefined;
}

/** One response of an answer, while it is read. */
interface Draft {
  href: string;
  isCollection: boolean;
  length: string;
  modified: string;
}

/** Pieces that are read in one turn of the event loop: about a millisecond. */
const PIECES_AT_ONCE = 4096;
/** Characters of a text that means something: a path of 4096 bytes, each written in some way. */
const TEXT_MAX = 2 ** 16;
/** Elements around each other. */
const DEPTH_MAX = 256;

/** A piece of a document: text, or what is between the brackets of a tag. */
interface Piece {
  readonly isTag: boolean;
  readonly content: string;
  /** Whether there may be entities in it. */
  readonly isRaw?: boolean;
}

/** A comment or declaration. */
const NOTHING: Piece = { isTag: false, content: '' };

/** Cuts a document into its pieces, in one pass. What is not closed ends it with undefined. */
function* pieces(xml: string): Generator<Piece | undefined> {
  for (let at = 0; at < xml.length;) {
    const isTag = xml[at] === '<';
    const isComment = xml.startsWith('<!--', at);
    const isSection = xml.startsWith('<![CDATA[', at);
    const close = isComment ? '-->' : isSection ? ']]>' : isTag ? '>' : '<';
    const found = xml.indexOf(close, at);
    if (found < 0 && isTag) return yield undefined;
    const end = found < 0 ? xml.length : found;
    if (isSection) yield { isTag: false, content: xml.slice(at + 9, end) };
    else if (!isTag) yield { isTag, content: xml.slice(at, end), isRaw: true };
    else if ('!?'.includes(xml[at + 1]!)) yield NOTHING;
    else yield { isTag, content: xml.slice(at + 1, end) };
    at = isTag ? end + close.length : end;
  }
}

/**
 * Reads an answer to PROPFIND. Names count without their namespace's prefix: servers choose these
 * freely, and what is asked for are the properties of `DAV:` alone. No entity is expanded but those
 * that XML itself has. Others have the thread in between.
 * @returns undefined if it is no such answer.
 */
export async function readMultistatus(xml: string): Promise<readonly Resource[] | undefined> {
  const resources: Resource[] = [];
  /** Names of the elements around the place where we are. */
  const open: string[] = [];
  let draft: Draft | undefined;
  let isMultistatus = false;
  let count = 0;
  for (const piece of pieces(xml)) {
    if (++count % PIECES_AT_ONCE === 0) await nextTurn();
    if (piece === undefined) return undefined;
    if (!piece.isTag) {
      if (draft !== undefined && !addText(draft, open, piece)) return undefined;
      continue;
    }
    const { content } = piece;
    const [, tag = ''] = /^\/?([^\s/]*)/.exec(content)!;
    const name = tag.slice(tag.indexOf(':') + 1);
    if (content.startsWith('/')) {
      if (open.pop() !== name) return undefined;
      if (name === 'response' && draft !== undefined) {
        resources.push(resourceOf(draft));
        draft = undefined;
      }
      continue;
    }
    if (open.length === 0) isMultistatus = name === 'multistatus';
    if (name === 'response') draft = { href: '', isCollection: false, length: '', modified: '' };
    if (name === 'collection' && open.at(-1) === 'resourcetype' && draft !== undefined)
      draft.isCollection = true;
    if (!content.endsWith('/') && open.push(name) > DEPTH_MAX) return undefined;
  }
  return isMultistatus && open.length === 0 ? resources : undefined;
}

/** @returns whether the text is as long as one may be. */
function addText(draft: Draft, open: readonly string[], { content, isRaw }: Piece): boolean {
  const field = fieldOf(open.at(-1), open.at(-2));
  if (field === undefined) return true;
  if (draft[field].length + content.length > TEXT_MAX) return false;
  draft[field] += isRaw === true ? unescaped(content) : content;
  return true;
}

/** What the text of an element is for. */
function fieldOf(
  name: string | undefined,
  parent: string | undefined,
): Exclude<keyof Draft, 'isCollection'> | undefined {
  // A status may have a location with an href of its own.
  if (name === 'href' && parent === 'response') return 'href';
  if (name === 'getcontentlength') return 'length';
  return name === 'getlastmodified' ? 'modified' : undefined;
}

function resourceOf({ href, isCollection, length, modified }: Draft): Resource {
  const bytes = Number(length.trim());
  const at = Date.parse(modified.trim()) / 1000;
  const hasLength = length.trim() !== '' && Number.isSafeInteger(bytes) && bytes >= 0 && !isCollection;
  return {
    href: href.trim(),
    isCollection,
    length: hasLength ? bytes : undefined,
    modified: Number.isNaN(at) ? undefined : at,
  };
}

const ENTITIES: Readonly<Record<string, string>> = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" };

function unescaped(text: string): string {
  return text.replaceAll(/&(?:#(\d{1,7})|#x([\da-f]{1,6})|(\w+));/gi, (all, decimal, hex, name) => {
    if (name !== undefined) return ENTITIES[name as string] ?? (all as string);
    const code = decimal === undefined ? Number.parseInt(hex as string, 16) : Number(decimal);
    return code <= 0x10ffff ? String.fromCodePoint(code) : (all as string);
  });
}
