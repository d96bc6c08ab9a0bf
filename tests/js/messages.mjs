// The Messages API as Anthropic's SDK for Node has it: not streamed, streamed, and with its helper.
// The finish is the stop reason.
import Anthropic from "@anthropic-ai/sdk";

const counted = (usage) => [
  usage.input_tokens + (usage.cache_read_input_tokens ?? 0),
  usage.output_tokens,
  usage.output_tokens_details?.thinking_tokens ?? 0,
  usage.cache_read_input_tokens ?? 0,
];

const usesOf = ({ content }) => content.filter(({ type }) => type === "tool_use");

function take(message, seen) {
  seen.finish = message.stop_reason;
  seen.usage = counted(message.usage);
  seen.calls = usesOf(message).map(({ id, name, input }) => [id, name, input]);
}

export function waysOf({ baseURL, apiKey }) {
  // The SDK adds the version to the path itself.
  const options = { baseURL: baseURL.replace(/\/v1$/, ""), apiKey, maxRetries: 0 };
  const { messages } = new Anthropic(options);

  async function whole(body, seen) {
    const message = await messages.create(body);
    for (const block of message.content) {
      if (block.type === "text") seen.text.push(block.text);
      if (block.type === "thinking") seen.thoughts.push(block.thinking);
    }
    take(message, seen);
  }

  // Folded by hand. A call counts once its block is closed, an answer once the message is.
  async function stream(body, seen) {
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
    for await (const event of await messages.create({ ...body, stream: true }))
      on[event.type]?.(event);
  }

  async function helper(body, seen, next) {
    const events = messages.stream(body);
    if (next) {
      const message = await events.finalMessage();
      const given = usesOf(message).map(({ id, name }) => ({
        type: "tool_result",
        tool_use_id: id,
        content: next.results[name],
      }));
      const answered = { role: "assistant", content: message.content };
      const said = [...body.messages, answered, { role: "user", content: given }];
      return helper({ ...body, tool_choice: undefined, model: next.model, messages: said }, seen);
    }
    events.on("text", (delta) => seen.text.push(delta));
    events.on("thinking", (delta) => seen.thoughts.push(delta));
    take(await events.finalMessage(), seen);
  }

  return { "node-whole": whole, "node-stream": stream, "node-helper": helper };
}
