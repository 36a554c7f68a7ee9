// What the workflows use of actions/download-artifact, around GitHub's own client.
import path from 'node:path';
import * as core from '@actions/core';
import { DefaultArtifactClient } from '@actions/artifact';
import { Minimatch } from 'minimatch';

const name = core.getInput('name');
const pattern = core.getInput('pattern');
const merge = core.getBooleanInput('merge-multiple');
const to = path.resolve(core.getInput('path'));
const client = new DefaultArtifactClient();
const { artifacts } = await client.listArtifacts({ latest: true });
const matcher = new Minimatch(pattern);
const wanted = artifacts.filter(a => name ? a.name === name : matcher.match(a.name));

if (name && wanted.length === 0) core.setFailed(`Artifact not found for name: ${name}`);
for (const a of wanted) {
  await client.downloadArtifact(a.id, { path: name || merge ? to : path.join(to, a.name) });
  core.info(`downloaded ${a.name}`);
}
