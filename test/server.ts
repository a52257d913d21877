/** A trained run and a `serve` of it, for the tests that ask it: clips to send lie in `videos`. */
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CLIPS, coldframe, makeClips, Running, writeConfig } from './support.ts';

export class Served {
  readonly folder = realpathSync(mkdtempSync(join(tmpdir(), 'serve-run-test-')));
  /** Of the server's own: what it leaves there is found. */
  readonly temporary = join(this.folder, 'tmp');
  readonly videos = join(this.folder, 'videos');
  readonly run = join(this.folder, 'run');
  #server: Running | undefined;
  address = '';

  get server(): Running {
    if (this.#server === undefined) throw new Error('the server was not started');
    return this.#server;
  }

  /** Trains for two steps, copies validation clips under these names, and serves. */
  async start(names: string[], more: string[], env: NodeJS.ProcessEnv = {}): Promise<void> {
    await makeClips();
    for (const made of [this.temporary, this.videos]) mkdirSync(made);
    const lines = readFileSync(join(CLIPS, 'val.txt'), 'utf8').split('\n');
    for (const [index, name] of names.entries())
      copyFileSync(join(CLIPS, lines[index]?.split(' ')[0] ?? ''), join(this.videos, name));
    const args = ['--config', writeConfig(this.folder), '--run-dir', this.run, '--set', 'train.steps=2'];
    const { code, stderr } = await coldframe(['train', ...args]);
    if (code !== 0) throw new Error(stderr);
    const options = ['--port', '0', '--root', this.videos, '--json', ...more];
    this.#server = new Running(['serve', this.run, ...options], { env: { ...env, TMPDIR: this.temporary } });
    this.address = String((await this.server.event('serving')).address);
  }

  end(): void {
    if (this.#server?.members().length) this.#server.signalGroup('SIGKILL');
    rmSync(this.folder, { recursive: true, force: true });
  }
}
