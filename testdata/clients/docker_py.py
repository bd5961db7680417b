"""Docker's Python SDK (PyPI `docker`) against a service: docker_py.py HOST REGISTRY."""

import io
import sys
import tarfile
import tempfile

import docker

host, registry = sys.argv[1:]
client = docker.DockerClient(base_url=host)
assert client.ping()
assert client.version()["Platform"]["Name"] == "rbuild"

with tempfile.TemporaryDirectory() as context:
    with open(f"{context}/Dockerfile", "w", encoding="utf-8") as file:
        file.write("FROM scratch\nARG V\nCOPY a /\nLABEL v=$V\n")
    with open(f"{context}/a", "w", encoding="utf-8") as file:
        file.write("content")
    image, log = client.images.build(path=context, tag="py:1", buildargs={"V": "7"}, rm=True)
    lines = "".join(entry.get("stream", "") for entry in log)
    assert "Step 1/4 : FROM scratch" in lines and "Successfully tagged py:1" in lines, lines
    assert image.labels["v"] == "7" and image.tags == ["py:1"], image.attrs
    again, log = client.images.build(path=context, tag="py:1", buildargs={"V": "7"})
    assert "Using cache" in "".join(entry.get("stream", "") for entry in log)
    assert again.id == image.id

text = io.BytesIO(b"FROM scratch\nCOPY nothing /\n")
try:
    client.images.build(fileobj=text)
    raise SystemExit("a build that must fail went well")
except docker.errors.BuildError as error:
    assert "nothing" in str(error), error
except docker.errors.APIError as error:
    assert error.status_code == 400 and "nothing" in error.explanation, error

name = f"{registry}/team/py"
assert image.tag(name, tag="2")
pushed = list(client.images.push(name, tag="2", stream=True, decode=True))
assert pushed[-1]["aux"]["Tag"] == "2", pushed
digest = pushed[-1]["aux"]["Digest"]
assert client.images.get_registry_data(f"{name}:2").id == digest
client.images.remove(f"{name}:2")
pulled = client.images.pull(name, tag="2")
assert pulled.id == image.id, (pulled.id, image.id)

assert {tag for image in client.images.list() for tag in image.tags} >= {"py:1", f"{name}:2"}
assert client.images.get("py:1").history()[0]["CreatedBy"].startswith("LABEL")
archive = b"".join(client.images.get("py:1").save(named="py:1"))
assert "manifest.json" in tarfile.open(fileobj=io.BytesIO(archive)).getnames()
client.images.remove("py:1")
assert set(client.images.load(archive)[0].tags) == {"py:1", f"{name}:2"}
try:
    client.images.get("nobody:here")
    raise SystemExit("an image that is not there was found")
except docker.errors.ImageNotFound:
    pass
assert client.df()["Images"] and client.containers.list() == []
actions = []
events = client.events(since=0, decode=True, filters={"type": "image"})
while "push" not in actions:
    actions.append(next(events)["Action"])
events.close()
client.images.remove("py:1")
client.images.remove(f"{name}:2")
assert client.images.prune()["SpaceReclaimed"] >= 0
print("docker-py is content")
