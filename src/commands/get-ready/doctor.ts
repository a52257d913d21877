/** `doctor`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, type Parsed } from '../options.ts';

export const doctor = (parser: Argv) =>
  parser.command('doctor', 'what is installed here, and how to mend what is not', doctorOptions, runDoctor);

const doctorOptions = (command: Argv) => begin(command, 'doctor');

async function runDoctor(args: Parsed<typeof doctorOptions>): Promise<void> {
  const { examine } = await import('../../tools/doctor.ts');
  await examine(new Report({ json: args.json }));
}
