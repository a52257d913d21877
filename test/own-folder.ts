/** For tests of what writes files and prints: a folder that is empty before each of them, and what was printed meanwhile. */
import { mkdirSync, mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, jest } from '@jest/globals';

export function useOwnFolder(prefix: string): { folder: string; at: (...parts: string[]) => string; said: string[] } {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), prefix)));
  const said: string[] = [];
  beforeEach(() => {
    rmSync(folder, { recursive: true });
    mkdirSync(folder);
    said.length = 0;
    for (const stream of [process.stdout, process.stderr])
      jest.spyOn(stream, 'write').mockImplementation(((text: unknown) => said.push(String(text)) > 0) as never);
  });
  afterAll(() => rmSync(folder, { recursive: true }));
  return { folder, at: (...parts) => join(folder, ...parts), said };
}
