/** The text of docs/events.md: every kind of event with its fields, from src/base/events/kinds.ts. make_docs.ts writes it. */
import { z } from 'zod';
import { EVENTS } from '../src/base/events/kinds.ts';

const HEAD = `# Events

Written by \`make docs\` from \`src/base/events/kinds.ts\`.

An event is one line of JSON. With \`--json\` a command prints events and nothing else on stdout; a run keeps those of its
own in \`events.jsonl\` in its folder, a sweep in \`journal.jsonl\`, with kinds of its own besides.
Every event has \`time\` (ISO 8601), \`kind\` and \`step\` (null where it is of none). Accuracy is 0..1, time is in seconds,
labels count from 0, and a number that was not finite is null. Later versions may add fields; these stay.
`;

type Described = {
  type?: string | string[];
  const?: unknown;
  enum?: string[];
  anyOf?: Described[];
  items?: Described;
  properties?: Record<string, Described>;
  additionalProperties?: Described | boolean;
  required?: string[];
  description?: string;
};

export function renderEvents(): string {
  const parts = Object.entries(EVENTS).map(([heading, kinds]) => {
    return [`## ${heading}`, ...kinds.map((schema) => renderKind(z.toJSONSchema(schema) as Described))].join('\n\n');
  });
  return `${[HEAD.trimEnd(), ...parts].join('\n\n')}\n`;
}

function renderKind({ description, properties = {}, required = [] }: Described): string {
  const { kind, step, ...fields } = properties;
  const at = step?.type === 'null' ? {} : { step };
  const rows = Object.entries({ ...at, ...fields }).map(([name, field]) => {
    const isAlways = required.includes(name) || name === 'step';
    const about = [isAlways ? '' : 'not always there', field?.description ?? ''].filter(Boolean).join('; ');
    return `| \`${name}\` | ${nameType(field ?? {}).replaceAll('|', '\\|')} | ${about} |`;
  });
  const table = rows.length === 0 ? [] : ['| field | is | |\n|---|---|---|', ...rows];
  return [`### \`${kind?.const}\`\n\n${description}\n`, ...table].join('\n').trimEnd();
}

function nameType({ type, enum: words, anyOf, items, properties, additionalProperties }: Described): string {
  if (anyOf !== undefined) return anyOf.map(nameType).join(' or ');
  if (words !== undefined) return words.map((word) => `\`${word}\``).join(' | ');
  if (items !== undefined) return `list of ${nameType(items)}`;
  if (properties !== undefined) return `{${Object.keys(properties).join(', ')}}`;
  if (typeof additionalProperties === 'object' && Object.keys(additionalProperties).length > 0)
    return `{name: ${nameType(additionalProperties)}}`;
  const types = [type ?? 'anything'].flat();
  return types.map((one) => (one === 'string' ? 'text' : one)).join(' or ');
}
