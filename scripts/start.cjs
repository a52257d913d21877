/**
 * What `scripts/coldframe` starts: looks at what nothing works without, then runs src/cli.ts or its bundle. Written so that a Node of ten
 * years ago can read it and say what it lacks. As a file that imports others it takes paths, where `--import` takes addresses:
 * a checkout may lie under any name.
 */
const fs = require('fs');
const os = require('os');
const path = require('path');
const url = require('url');

const NEEDED = [20, 20];

function refuse(text) {
  process.stderr.write(`${text}\n`);
  process.exit(2);
}

function checkNode() {
  const found = process.versions.node.split('.').map(Number);
  if (found[0] > NEEDED[0] || (found[0] === NEEDED[0] && found[1] >= NEEDED[1])) return;
  const where = `${process.version} was found (${process.execPath})`;
  refuse(`node  ${where}. Node ${NEEDED.join('.')} or newer is needed: https://nodejs.org, or another one first in PATH.`);
}

function checkInstallation() {
  const project = path.dirname(__dirname);
  if (/[?\\]/.test(project))
    refuse(`${project}  a ? or \\ in a folder's name keeps Node and tsx from loading what lies in it. Move the checkout.`);
  if (fs.existsSync(path.join(project, 'node_modules', 'tsx'))) return;
  refuse(`${path.join(project, 'node_modules')}  is not complete. Run \`make setup\` in ${project}.`);
}

/** A TMPDIR that is not there (a scratch folder of another node, of a job that has ended) is left alone. */
function chooseTemporaryFolder() {
  const wanted = os.tmpdir();
  const usable = [wanted, '/tmp', '/var/tmp'].find(isWritable);
  if (usable === wanted) return;
  if (usable === undefined)
    refuse(`TMPDIR  ${wanted} cannot be written, nor can /tmp. Set TMPDIR to a folder for temporary files.`);
  process.stderr.write(`TMPDIR  ${wanted} cannot be written: ${usable} is used.\n`);
  for (const name of ['TMPDIR', 'TMP', 'TEMP']) process.env[name] = usable;
}

function isWritable(folder) {
  try {
    fs.accessSync(folder, fs.constants.W_OK | fs.constants.X_OK);
    return fs.statSync(folder).isDirectory();
  } catch (error) {
    return false;
  }
}

/** The bundle of `make setup`, undefined when a source has changed since: a checkout may be under development. */
function findBundle() {
  const project = path.dirname(__dirname);
  const bundle = path.join(project, 'dist', 'cli.mjs');
  try {
    const made = fs.statSync(bundle).mtimeMs;
    const files = fs.readdirSync(path.join(project, 'src'), { recursive: true, withFileTypes: true });
    const isNewer = (file) => fs.statSync(path.join(file.path, file.name)).mtimeMs > made;
    return files.some(isNewer) ? undefined : bundle;
  } catch (error) {
    return undefined;
  }
}

checkNode();
checkInstallation();
chooseTemporaryFolder();
process.exitCode = 13; // as Node's own, for a program that ends with something still awaited
const bundle = findBundle();
if (bundle) process.setSourceMapsEnabled(true); // a stack names the source; costs nothing until there is one
const program = bundle
  ? import(url.pathToFileURL(bundle).href)
  : import('../node_modules/tsx/dist/esm/index.mjs').then(() => import('../src/cli.ts'));
program.then(
  () => {
    if (process.exitCode === 13) process.exitCode = 0;
  },
  (error) => {
    if (error.code === 'EMFILE') refuse(`${error.path}  cannot be opened: too many files are open. Raise \`ulimit -n\`.`);
    throw error;
  },
);
