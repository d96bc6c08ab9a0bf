// The Messages API as Anthropic's SDK for Node has it: not streamed, streamed, and with its helper.
// The finish is the stop reason.
import Anthropic from "@anthropic-ai/sdk";
import { apiKey, baseURL, nextOf, report, results, tools } from "./report.mjs";

// The SDK adds the version to the path itself.
const client = new Anthropic({ baseURL: baseURL.replace(/\/v1$/, ""), apiKey, maxRetries: 0 });

const question = { role: "user", content: "Hello" };
const asked = (model, messages = [question]) => ({
  model,
  max_tokens: 100,
  messages,
  tools: tools.map(({ function: { name, description, parameters } }) => ({
    name,
    description,
    input_schema: parameters,
  })),
});

const counted = (usage) => [
  usage.input_tokens + (usage.cache_read_input_tokens ?? 0),
  usage.output_tokens,
  usage.output_tokens_details?.thinking_tokens ?? 0,
  usage.cache_read_input_tokens ?? 0,
];

function take(message, seen) {
  seen.finish = message.stop_reason;
  seen.usage = counted(message.usage);
  seen.calls = message.content
    .filter(({ type }) => type === "tool_use")
    .map(({ id, name, input }) => [id, name, input]);
}

async function create(model, seen) {
  const message = await client.messages.create(asked(model));
  for (const block of message.content) {
    if (block.type === "text") seen.text.push(block.text);
    if (block.type === "thinking") seen.thoughts.push(block.thinking);
  }
  take(message, seen);
}

// Folded by hand. A call counts once its block is closed, an answer once the message is.
async function stream(model, seen) {
  const open = new Map();
  const counts = {};
  const on = {
    message_start: ({ message }) => Object.assign(counts, message.usage),
    content_block_start: ({ index, content_block }) => open.set(index, [content_block, ""]),
    content_block_delta: ({ index, delta }) => {
      if (delta.type === "text_delta") seen.text.push(delta.text);
      if (delta.type === "thinking_delta") seen.thoughts.push(delta.thinking);
      if (delta.type === "input_json_delta") open.get(index)[1] += delta.partial_json;
    },
    content_block_stop: ({ index }) => {
      const [{ type, id, name }, json] = open.get(index);
      if (type === "tool_use") seen.calls.push([id, name, JSON.parse(json || "{}")]);
    },
    message_delta: ({ delta, usage }) => {
      seen.finish = delta.stop_reason;
      const told = Object.entries(usage).filter(([, value]) => value !== null);
      Object.assign(counts, Object.fromEntries(told));
    },
    message_stop: () => (seen.usage = counted(counts)),
  };
  const events = await client.messages.create({ ...asked(model), stream: true });
  for await (const event of events) on[event.type]?.(event);
}

async function helper(model, seen) {
  const stream = client.messages.stream(asked(model));
  stream.on("text", (delta) => seen.text.push(delta));
  stream.on("thinking", (delta) => seen.thoughts.push(delta));
  take(await stream.finalMessage(), seen);
}

// The calls of `model` with their results, put to the next one.
async function turn(model, seen) {
  const next = nextOf(model);
  if (!next) return;
  const { content } = await client.messages.stream(asked(model)).finalMessage();
  const given = content
    .filter(({ type }) => type === "tool_use")
    .map(({ id, name }) => ({ type: "tool_result", tool_use_id: id, content: results[name] }));
  const messages = [question, { role: "assistant", content }, { role: "user", content: given }];
  const events = client.messages.stream(asked(next, messages));
  events.on("text", (delta) => seen.text.push(delta));
  take(await events.finalMessage(), seen);
}

await report({ create, stream, helper, "helper, turn": turn });
