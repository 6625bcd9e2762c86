import { writeFileSync } from 'node:fs';
import { PAGE, referencePage } from './page.js';

/* `npm run docs`: writes docs/backend-reference.md. */
writeFileSync(PAGE, referencePage());
