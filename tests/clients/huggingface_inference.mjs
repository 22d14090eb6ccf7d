// @huggingface/inference: text to image and image to image at an endpoint.
import assert from "node:assert";
import { writeFile } from "node:fs/promises";
import { InferenceClient } from "@huggingface/inference";

const [address, path] = process.argv.slice(2);
const client = new InferenceClient("unused").endpoint(`${address}/v1/hf/models/shapes`);
const image = await client.textToImage({ inputs: "a red circle on a blue background", parameters: { seed: 7 } }, { outputType: "blob" });
await writeFile(path, Buffer.from(await image.arrayBuffer()));

const parameters = { prompt: "a blue square", strength: 0.5, num_inference_steps: 8, target_size: { width: 128, height: 128 } };
const changed = await client.imageToImage({ inputs: image, parameters });
assert.notEqual(Buffer.compare(Buffer.from(await changed.arrayBuffer()), Buffer.from(await image.arrayBuffer())), 0);
assert.ok((await client.imageToImage({ inputs: image })).size > 0); // without parameters the image is the body itself
