// openai-node: images by base64 and by address, a stream, an error of its own class, edits and a variation.
import assert from "node:assert";
import { readFile, writeFile } from "node:fs/promises";
import OpenAI, { toFile } from "openai";

const [address, path] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: "unused", maxRetries: 0 });
const prompt = "a red circle on a blue background";
const MASK = // 128 x 128 pixels, the left half transparent
  "iVBORw0KGgoAAAANSUhEUgAAAIAAAACACAYAAADDPmHLAAAA7klEQVR42u3SAQ0AAAjDMMC/Z7BB8tbB83WxyePH/9kEIAAEgAAQ" +
  "AAJAAAgAASAABIAAEAACQAAIAAEgAASAABAAAkAACAABIAAEgAAQAAJAAAgAASAABIAAEAACQAAIAAEgAASAABAAAkAACAABIAAE" +
  "gAAQAAJAAAgAASAABIAAEAACQAAIAAEgAASAABAAAkAACAABIAAEgAAQAAJAAAgAASAABIAAEAACQAACQAAIAAEgAASAABAAAkAA" +
  "CAABIAAEgAAQAAJAAAgAASAABIAAEAACQAAIAAEgAASAABAAAkAACAABIAAEgAD44wDTdQH/YL7UTAAAAABJRU5ErkJggg==";

const encoded = await client.images.generate({ prompt, size: "128x128", n: null, response_format: null, seed: 7 });
await writeFile(path, Buffer.from(encoded.data[0].b64_json, "base64"));

const linked = await client.images.generate({ prompt, response_format: "url" });
assert.equal((await fetch(linked.data[0].url)).status, 200);

const types = [];
for await (const event of await client.images.generate({ prompt, stream: true, partial_images: 2 })) types.push(event.type);
assert.equal(types.at(-1), "image_generation.completed");

await assert.rejects(client.images.generate({ prompt, steps: 3 }), OpenAI.BadRequestError);

// Edits, whole and with a mask, streamed, and a variation; the mask is transparent where the image is to change.
const file = async (name) => toFile(await readFile(path.replace(/image$/, name)), name, { type: "image/png" });
await writeFile(path.replace(/image$/, "image.png"), Buffer.from(encoded.data[0].b64_json, "base64"));
await writeFile(path.replace(/image$/, "mask.png"), Buffer.from(MASK, "base64"));
const whole = await client.images.edit({ image: await file("image.png"), prompt, size: "128x128", strength: 0.5 });
assert.ok(whole.data[0].b64_json);
const masked = { image: [await file("image.png")], mask: await file("mask.png"), prompt };
assert.equal((await client.images.edit({ ...masked, n: 2 })).data.length, 2);
const edits = [];
for await (const event of await client.images.edit({ ...masked, stream: true, partial_images: 1 })) edits.push(event.type);
assert.equal(edits.at(-1), "image_edit.completed");
const varied = await client.images.createVariation({ image: await file("image.png"), n: 1, response_format: "b64_json" });
assert.ok(varied.data[0].b64_json);
