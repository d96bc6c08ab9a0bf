// Puts questions to client SDKs; with a third argument one after the other, else all at once.
// node run.mjs BASE_URL KEY [one-by-one] reads a JSON list from standard input,
// [{front, client, body, next, results}], and prints a list of what each client has seen; Seen in
// ../support/questions.py says what the members are. `body` is a request of the front, for
// `ai-sdk` as ai.mjs has it. `next`, where it is not null, is the model that is given the answer
// with `results`, the texts that the tools give, by name, and calls what it likes; what is seen is
// its answer then.
import { text } from "node:stream/consumers";
import { fail } from "./failures.mjs";

const [baseURL, apiKey, oneByOne] = process.argv.slice(2);
const calls = JSON.parse(await text(process.stdin));

async function look({ front, client, body, next, results }) {
  const seen = { text: [], thoughts: [], refusal: [], calls: [], finish: null, usage: null };
  const program = client.startsWith("ai-sdk") ? "ai" : front;
  try {
    const { waysOf } = await import(`./${program}.mjs`);
    const ways = waysOf({ baseURL, apiKey });
    const way = program === "ai" ? ways[front] : ways;
    await way[client](body, seen, next && { model: next, results });
  } catch (error) {
    fail(seen, error);
  }
  return seen;
}

const seen = [];
for (const call of calls) seen.push(oneByOne ? await look(call) : look(call));
process.stdout.write(JSON.stringify(await Promise.all(seen)));
