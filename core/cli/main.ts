#!/usr/bin/env node
import { begin } from './begin.js';

await begin((words) => words);
