// LangChain.js: its DALL-E wrapper, which returns an address.
import { writeFile } from "node:fs/promises";
import { DallEAPIWrapper } from "@langchain/openai";

const [address, path] = process.argv.slice(2);
const tool = new DallEAPIWrapper({ model: "shapes", size: "128x128", baseUrl: `${address}/v1`, apiKey: "unused" });
const image = await fetch(await tool.invoke("a red circle on a blue background"));
await writeFile(path, Buffer.from(await image.arrayBuffer()));
