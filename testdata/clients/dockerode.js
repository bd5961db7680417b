// Docker's SDK for Node (npm `dockerode`) against a service: dockerode.js SOCKET REGISTRY.
'use strict';

const assert = require('assert');
const fs = require('fs');
const os = require('os');
const path = require('path');
const Docker = require('dockerode');

const [socketPath, registry] = process.argv.slice(2);
const docker = new Docker({ socketPath });

function follow(stream) {
  return new Promise((resolve, reject) =>
    docker.modem.followProgress(stream, (error, lines) => (error ? reject(error) : resolve(lines))));
}

async function main() {
  assert.strictEqual(String(await docker.ping()), 'OK');
  assert.strictEqual((await docker.version()).Platform.Name, 'rbuild');

  const context = fs.mkdtempSync(path.join(os.tmpdir(), 'node-'));
  fs.writeFileSync(path.join(context, 'Dockerfile'), 'FROM scratch\nARG V\nCOPY a /\nLABEL v=$V\n');
  fs.writeFileSync(path.join(context, 'a'), 'content of node');
  const options = { t: 'node-sdk:1', buildargs: { V: '8' } };
  const built = await follow(await docker.buildImage({ context, src: ['Dockerfile', 'a'] }, options));
  const log = built.map((line) => line.stream || '').join('');
  assert(log.includes('Successfully tagged node-sdk:1'), log);
  fs.rmSync(context, { recursive: true });

  const image = docker.getImage('node-sdk:1');
  const found = await image.inspect();
  assert.strictEqual(found.Config.Labels.v, '8');
  const repo = `${registry}/team/node`;
  await image.tag({ repo, tag: '2' });
  const pushed = await follow(await docker.getImage(repo).push({ tag: '2' }));
  assert.strictEqual(pushed[pushed.length - 1].aux.Tag, '2', JSON.stringify(pushed));
  assert((await docker.getImage(`${repo}:2`).distribution()).Descriptor.digest);
  await docker.getImage(`${repo}:2`).remove();
  await follow(await docker.pull(`${repo}:2`));
  assert.strictEqual((await docker.getImage(`${repo}:2`).inspect()).Id, found.Id);

  const names = (await docker.listImages()).flatMap((row) => row.RepoTags);
  assert(names.includes('node-sdk:1') && names.includes(`${repo}:2`), names.join(' '));
  assert((await image.history())[0].CreatedBy.startsWith('LABEL'));
  await assert.rejects(docker.getImage('nobody:here').inspect(), { statusCode: 404 });
  assert((await docker.df()).Images.length > 0);
  assert.deepStrictEqual(await docker.listContainers(), []);
  await image.remove();
  await docker.getImage(`${repo}:2`).remove();
  console.log('dockerode is content');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
