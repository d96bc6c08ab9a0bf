// The Vercel AI SDK with its providers for Anthropic's Messages API and OpenAI's Responses API.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { follow } from "./ai_parts.mjs";
import { apiKey, baseURL, report } from "./report.mjs";

const limit = { maxOutputTokens: 100 }; // else the SDK warns that it does not know the model
const anthropic = createAnthropic({ baseURL, apiKey });
const openai = createOpenAI({ baseURL, apiKey });

await report({
  "ai-sdk-anthropic": (model, seen) => follow(anthropic(model), seen, limit),
  "ai-sdk-openai": (model, seen) => follow(openai(model), seen, limit),
});
