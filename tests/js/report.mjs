// What the programs here share. node PROGRAM BASE_URL KEY MODEL... prints one JSON object,
// {model: {way: what was seen}}; Seen in ../test_sdks.py says what the members are.
import { readFileSync } from "node:fs";

const [baseURL, apiKey, ...models] = process.argv.slice(2);

export { apiKey, baseURL };
export const tools = JSON.parse(readFileSync(new URL("tools.json", import.meta.url), "utf8"));
// What the tools give, for the ways that go on with it.
export const results = { sum: "The sum is 3.", now: "The time is noon." };
// The model that answers a second turn, or null where `model` has none.
export const nextOf = (model) =>
  model.endsWith("/agent") ? model.replace(/agent$/, "happy") : null;

// A way is an async function (model, seen) that fills `seen`; what it throws is seen too.
export async function report(ways) {
  const told = {};
  const look = async (model, name) => {
    const seen = { text: [], thoughts: [], calls: [], finish: null, usage: null };
    told[model][name] = seen;
    try {
      await ways[name](model, seen);
    } catch (error) {
      fail(seen, error);
    }
  };
  for (const model of models) told[model] = {};
  const names = Object.keys(ways);
  await Promise.all(models.flatMap((model) => names.map((name) => look(model, name))));
  process.stdout.write(JSON.stringify(told));
}

// The API's error object is a member of the SDK's exception, or what the SDK hands out itself;
// Anthropic's has a type, which stands for the code, and lies in an object of its own.
export function fail(seen, error) {
  const found = error.error ?? error.data?.error ?? error;
  const { code, type, message } = found.error ?? found;
  seen.error = `${code ?? type}: ${message}`;
  seen.status = error.status ?? error.statusCode ?? null;
}
