// openai-node: an image by base64, one by its address, a stream, and an error of its own class.
import assert from "node:assert";
import { writeFile } from "node:fs/promises";
import OpenAI from "openai";

const [address, path] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: "unused", maxRetries: 0 });
const prompt = "a red circle on a blue background";

const encoded = await client.images.generate({ prompt, size: "128x128", n: null, response_format: null, seed: 7 });
await writeFile(path, Buffer.from(encoded.data[0].b64_json, "base64"));

const linked = await client.images.generate({ prompt, response_format: "url" });
assert.equal((await fetch(linked.data[0].url)).status, 200);

const types = [];
for await (const event of await client.images.generate({ prompt, stream: true, partial_images: 2 })) types.push(event.type);
assert.equal(types.at(-1), "image_generation.completed");

await assert.rejects(client.images.generate({ prompt, steps: 3 }), OpenAI.BadRequestError);
