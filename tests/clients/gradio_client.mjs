// @gradio/client: the page's API, which returns the address of a file.
import { writeFile } from "node:fs/promises";
import { Client } from "@gradio/client";

const [address, path] = process.argv.slice(2);
const client = await Client.connect(address);
const { data } = await client.predict("/generate", { prompt: "a red circle on a blue background", seed: 7 });
const image = await fetch(data[0][0].url);
await writeFile(path, Buffer.from(await image.arrayBuffer()));
client.close();
