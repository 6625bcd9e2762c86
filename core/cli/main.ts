#!/usr/bin/env node
import { runProgram } from './program.js';
import { programWords } from './words.js';

await runProgram(programWords());
