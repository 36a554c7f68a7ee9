// What the workflows use of actions/upload-artifact, around GitHub's own client.
import fs from 'node:fs';
import path from 'node:path';
import * as core from '@actions/core';
import { DefaultArtifactClient } from '@actions/artifact';

const name = core.getInput('name', { required: true });
const from = path.resolve(core.getInput('path', { required: true }));
const missing = core.getInput('if-no-files-found');
const whole = fs.existsSync(from) && fs.statSync(from).isDirectory();
const root = whole ? from : path.dirname(from);
const files = (whole ? fs.readdirSync(from).map(f => path.join(from, f)) : [from])
  .filter(f => fs.existsSync(f) && fs.statSync(f).isFile());

if (files.length === 0) {
  const message = `No files were found with the provided path: ${from}. No artifacts will be uploaded.`;
  if (missing === 'error') core.setFailed(message);
  else core.warning(message);
} else {
  const uploaded = await new DefaultArtifactClient().uploadArtifact(name, files, root, {});
  core.info(`uploaded ${name}: ${files.length} files, ${uploaded.size} bytes`);
}
