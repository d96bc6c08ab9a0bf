import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { follow } from "./ai_parts.mjs";
import { apiKey, baseURL, report } from "./report.mjs";

const provider = (includeUsage) =>
  createOpenAICompatible({ name: "legato", baseURL, apiKey, includeUsage });

await report({
  "ai-sdk": (model, seen) => follow(provider(true)(model), seen),
  "ai-sdk, no usage": (model, seen) => follow(provider(false)(model), seen),
});
