/** Before each file of tests: jest tells its workers to colour when it has a terminal, and texts are compared here; what is
 * found in clips is kept in this checkout, not in the user's cache. */
import { fileURLToPath } from 'node:url';

delete process.env.FORCE_COLOR;
process.env.NO_COLOR = '1';
process.env.XDG_CACHE_HOME = fileURLToPath(new URL('../.cache/kept', import.meta.url));
