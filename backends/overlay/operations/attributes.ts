import {
  type AttributeChanges,
  type Attributes,
  type Awaitable,
  andThen,
  type Context,
  FsError,
  type FsStatistics,
  run,
  type Steps,
  wait,
} from '../../../core/backend/index.js';
import { copyUp } from '../changes/copy-up.js';
import type { Layer } from '../layers/layer.js';
import type { OverlayFile, OverlayNode } from '../tree/node.js';
import type { ShownAttributes } from '../tree/shown-attributes.js';
import type { Union } from '../tree/union.js';

/** The topmost layer that has a node, and its object there. */
export function topOf(union: Union, node: OverlayNode): { layer: Layer; node: object } {
  return node.upper === undefined ? node.lowers[0]! : { layer: union.upper!.layer, node: node.upper };
}

/** A node's object in the upper, after a copy-up if need be. `length` as for {@link copyUp}. */
export function* inUpper(union: Union, node: OverlayNode, length?: number): Steps<object> {
  union.writable();
  yield* wait(copyUp(union, node, length));
  return node.upper!;
}

/**
 * Attributes and extended attributes. They are read from the topmost layer and changed in the
 * upper.
 */
export function attributeOperations(union: () => Union, shown: ShownAttributes) {
  return {
    getattr(node: OverlayNode, file: OverlayFile | undefined, context: Context): Awaitable<Attributes> {
      let { upper } = node;
      let layer: Layer;
      if (upper === undefined) ({ layer, node: upper } = node.lowers[0]!);
      else layer = union().upper!.layer;
      const open = file !== undefined && file.node === upper ? file.file : undefined;
      return shown.attributes(node, layer.backend.getattr(upper, open, context));
    },

    setattr(
      node: OverlayNode,
      changes: AttributeChanges,
      file: OverlayFile | undefined,
      context: Context,
    ): Awaitable<Attributes> {
      const { size, mode, uid, gid } = changes;
      const onlySize = mode === undefined && uid === undefined && gid === undefined;
      const set = function* (): Steps<Attributes> {
        const length = size === undefined || onlySize ? size : Infinity;
        const upper = yield* inUpper(union(), node, length);
        const open = file !== undefined && file.node === upper ? file.file : undefined;
        const { backend } = union().writable().layer;
        return yield* wait(backend.setattr!(upper, changes, open, context));
      };
      return shown.attributes(node, run(set()));
    },

    readlink(node: OverlayNode, context: Context): Awaitable<string> {
      const top = topOf(union(), node);
      if (top.layer.backend.readlink === undefined) throw FsError.of('EINVAL');
      return top.layer.backend.readlink(top.node, context);
    },

    statfs(node: OverlayNode, context: Context): Awaitable<FsStatistics> {
      const { upper } = union();
      if (upper !== undefined) return upper.layer.backend.statfs?.(upper.work.root, context) ?? {};
      const top = topOf(union(), node);
      return top.layer.backend.statfs?.(top.node, context) ?? {};
    },

    getxattr(node: OverlayNode, name: string, context: Context): Awaitable<Uint8Array | undefined> {
      const { layer, node: inLayer } = topOf(union(), node);
      if (layer.backend.getxattr === undefined) throw FsError.of('EOPNOTSUPP');
      return layer.backend.getxattr(inLayer, layer.marks.escape(name), context);
    },

    listxattr(node: OverlayNode, context: Context): Awaitable<readonly string[]> {
      const { layer, node: inLayer } = topOf(union(), node);
      if (layer.backend.listxattr === undefined) return [];
      return andThen(layer.backend.listxattr(inLayer, context), (names) =>
        names.flatMap((name) => layer.marks.unescape(name) ?? []),
      );
    },

    setxattr(
      node: OverlayNode,
      name: string,
      value: Uint8Array,
      flags: number,
      killSgid: boolean,
      context: Context,
    ): Awaitable<void> {
      return andThen(run(inUpper(union(), node)), (upper) => {
        const { layer, marks } = union().writable();
        return layer.backend.setxattr!(upper, marks.escape(name), value, flags, killSgid, context);
      });
    },

    removexattr(node: OverlayNode, name: string, context: Context): Awaitable<void> {
      return andThen(run(inUpper(union(), node)), (upper) => {
        const { layer, marks } = union().writable();
        return layer.backend.removexattr!(upper, marks.escape(name), context);
      });
    },
  };
}
