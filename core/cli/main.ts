#!/usr/bin/env node
import { runProgram } from './program.js';
import { programWords } from './program-arguments.js';

await runProgram(programWords());
