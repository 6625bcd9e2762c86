#!/usr/bin/env node
import { runProgram } from '../program.js';
import { programWords } from '../program-arguments.js';

/**
 * `virtiofs-kit virtiofsd` as a program of its own: libvirt and Kata are given a path, and no first
 * argument.
 */
await runProgram(['virtiofsd', ...programWords()]);
