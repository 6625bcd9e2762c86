#!/usr/bin/env node
import { begin } from '../begin.js';

/**
 * `virtiofs-kit virtiofsd` as a program of its own: libvirt and Kata are given a path, and no first
 * argument.
 */
await begin((words) => ['virtiofsd', ...words]);
