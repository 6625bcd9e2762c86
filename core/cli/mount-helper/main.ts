#!/usr/bin/env node
import { begin } from '../begin.js';
import { mountWords } from './words.js';

/** What mount(8) runs for file systems of type `virtiofs-kit`, those of fstab(5) among them. */
await begin(mountWords);
