/**
 * `virtiofs-kit/accelerator`: quicker ways for backends whose work can be carried out together, on
 * threads, or by the kernel. Experimental: it may change in any version. No backend needs it.
 */
export {
  accelerate,
  acceleratorOf,
  engineSlot,
  type Accelerator,
  type Backing,
  type Completions,
  type Gathered,
  type StatIdentity,
} from './backend/accelerator.js';
export { closeBacking } from './system/index.js';
