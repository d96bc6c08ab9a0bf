// The Vercel AI SDK with its providers for Anthropic's Messages API and OpenAI's Responses API.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { follow, followTurn } from "./ai_parts.mjs";
import { apiKey, baseURL, nextOf, report } from "./report.mjs";

const anthropic = createAnthropic({ baseURL, apiKey });
const openai = createOpenAI({ baseURL, apiKey });

// Else the SDK sends the ids of items in place of the items.
const unstored = { providerOptions: { openai: { store: false } } };

const turn = (provider, more) => async (model, seen) => {
  const next = nextOf(model);
  if (next) await followTurn(provider(model), provider(next), seen, more);
};

await report({
  "ai-sdk-anthropic": (model, seen) => follow(anthropic(model), seen),
  "ai-sdk-openai": (model, seen) => follow(openai(model), seen),
  "ai-sdk-anthropic, turn": turn(anthropic),
  "ai-sdk-openai, turn": turn(openai, unstored),
  "ai-sdk-openai, turn by ids": turn(openai),
});
