// The AI SDK with @ai-sdk/openai-compatible: three images, Darkroom's fields as provider options, and an edit.
import assert from "node:assert";
import { writeFile } from "node:fs/promises";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateImage } from "ai";

const [address, path] = process.argv.slice(2);
const darkroom = createOpenAICompatible({ name: "darkroom", baseURL: `${address}/v1`, apiKey: "unused" });
const { images } = await generateImage({
  model: darkroom.imageModel("shapes"),
  prompt: "a red circle on a blue background",
  n: 3,
  providerOptions: { darkroom: { seed: 7 } },
});
assert.equal(images.length, 3);
await writeFile(path, images[0].uint8Array);

const edited = await generateImage({
  model: darkroom.imageModel("shapes"),
  prompt: { text: "a blue square", images: [images[0].uint8Array] },
  providerOptions: { darkroom: { strength: 0.5 } },
});
assert.equal(edited.images.length, 1);
