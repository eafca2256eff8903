// Node's own client: many requests at once over kept connections, GET and POST. `node fetch.js URL`
"use strict";
const crypto = require("crypto");

const url = process.argv[2];

async function one(number) {
  const body = number % 2 ? crypto.randomBytes((number * 997) % 200000) : undefined;
  const response = await fetch(`${url}/${number}?q=%20`, { method: body ? "POST" : "GET", body });
  const got = await response.json();
  const sha256 = crypto.createHash("sha256").update(body || "").digest("hex");
  if (response.status !== 200 || got.url !== `/${number}?q=%20` || got.sha256 !== sha256) {
    throw new Error(`request ${number}: ${response.status} ${JSON.stringify(got)}`);
  }
}

async function main() {
  for (let round = 0; round < 10; round += 1) {
    await Promise.all(Array.from({ length: 30 }, (_, number) => one(round * 30 + number)));
  }
}

main().catch((error) => {
  console.error(error.message, error.cause || "");
  process.exit(1);
});
