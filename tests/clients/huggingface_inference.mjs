// @huggingface/inference: text to image at an endpoint.
import { writeFile } from "node:fs/promises";
import { InferenceClient } from "@huggingface/inference";

const [address, path] = process.argv.slice(2);
const client = new InferenceClient("unused").endpoint(`${address}/v1/hf/models/shapes`);
const image = await client.textToImage({ inputs: "a red circle on a blue background", parameters: { seed: 7 } }, { outputType: "blob" });
await writeFile(path, Buffer.from(await image.arrayBuffer()));
