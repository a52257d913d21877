/** `serve`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, name, number, type Parsed, SET, TRIAL, text } from '../options.ts';

export const serve = (parser: Argv) =>
  parser.command('serve <checkpoint>', 'name the classes of videos over HTTP, with a page', serveOptions, runServe);

const serveOptions = (command: Argv) =>
  begin(command, 'serve')
    .positional('checkpoint', name('checkpoint or run folder'))
    .option('host', {
      ...text('host', 'address to listen on; any but this machine alone asks for a token', {}),
      default: '127.0.0.1',
    })
    .option('port', { ...number('port', 'port to listen on; 0: any that is free', { most: 65_535 }), default: 8000 })
    .option('root', { ...text('root', 'folder below which videos may be named by their path', {}), default: '.' })
    .option('top', {
      ...number('top', 'how many classes to name where a request does not say', { least: 1 }),
      default: 5,
    })
    .option('token-file', text('token-file', 'file with the token (default: COLDFRAME_TOKEN, or a new one)', {}))
    .option('max-size', { ...text('max-size', 'of an upload', {}), default: '500MB' })
    .option('max-duration', {
      ...number('max-duration', 'of a video, seconds', { least: 1 }),
      default: 600,
    })
    .option('timeout', { ...number('timeout', 'for an upload, and for an answer, seconds', { least: 1 }), default: 60 })
    .option('max-requests', { ...number('max-requests', 'that are in hand at a time', { least: 1 }), default: 64 })
    .option('trial', TRIAL)
    .option('set', SET);

async function runServe(args: Parsed<typeof serveOptions>): Promise<void> {
  const { serve: serveCheckpoint } = await import('../../inference/server/serve.ts');
  const {
    'token-file': tokenFile,
    'max-size': maxSize,
    'max-duration': maxDuration,
    'max-requests': maxRequests,
  } = args;
  await serveCheckpoint({ ...args, tokenFile, maxSize, maxDuration, maxRequests }, new Report({ json: args.json }));
}
