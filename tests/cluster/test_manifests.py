"""cluster.yaml, clusters/ and the Dockerfile: known fields only, versions of pyproject.toml, commands that rayseg understands.

None of them is run here. Ray checks its own files; for KubeRay's the names of the fields are listed below.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayseg.cli import _parser, submit
from rayseg.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
RAY_FILES = ("cluster.yaml", "clusters/on-premises.yaml")
KUBERAY_FILES = ("clusters/kuberay/raycluster.yaml", "clusters/kuberay/rayjob.yaml")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Fields of ray.io/v1 in KubeRay v1.7.0 (ray-operator/apis/ray/v1/raycluster_types.go and rayjob_types.go of ray-project/kuberay):
# a name leads to what is inside it, `list` in front where there are several, None where Kubernetes or the user decides.
POD = {"metadata": None, "spec": None}
CLUSTER = {
    **dict.fromkeys(("rayVersion", "enableInTreeAutoscaling", "suspend", "managedBy", "headServiceAnnotations"), None),
    **dict.fromkeys(("gcsFaultToleranceOptions", "upgradeStrategy", "historyServerOptions", "networkPolicy", "tlsOptions"), None),
    "authOptions": dict.fromkeys(("mode", "secretName", "enableK8sTokenAuth")),
    "autoscalerOptions": {
        **dict.fromkeys(("version", "idleTimeoutSeconds", "upscalingMode", "resources", "image", "imagePullPolicy")),
        **dict.fromkeys(("securityContext", "env", "envFrom", "volumeMounts", "command", "args")),
    },
    "headGroupSpec": {
        **dict.fromkeys(
            ("rayStartParams", "headService", "enableIngress", "ingressOptions", "resources", "labels", "serviceType")
        ),
        "template": POD,
    },
    "workerGroupSpecs": [
        {
            **dict.fromkeys(("groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds", "priority", "suspend")),
            **dict.fromkeys(("rayStartParams", "resources", "labels", "scaleStrategy", "numOfHosts")),
            "template": POD,
        }
    ],
}
JOB = {
    **dict.fromkeys(
        ("entrypoint", "runtimeEnvYAML", "jobId", "metadata", "clusterSelector", "submissionMode", "suspend", "managedBy")
    ),
    **dict.fromkeys(("backoffLimit", "activeDeadlineSeconds", "preRunningDeadlineSeconds", "ttlSecondsAfterFinished")),
    **dict.fromkeys(
        ("shutdownAfterJobFinishes", "deletionStrategy", "entrypointNumCpus", "entrypointNumGpus", "entrypointResources")
    ),
    "submitterConfig": {"backoffLimit": None},
    "submitterPodTemplate": POD,
    "rayClusterSpec": CLUSTER,
}
FIELDS = {
    kind: {"apiVersion": None, "kind": None, "metadata": None, "spec": spec}
    for kind, spec in (("RayCluster", CLUSTER), ("RayJob", JOB))
}
SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def unknown(values: Any, known: Any, where: str = "") -> Iterator[str]:
    """Paths of the fields that are not listed."""
    if isinstance(known, list):
        for i, one in enumerate(values):
            yield from unknown(one, known[0], f"{where}[{i}]")
    elif known is not None:
        for name, value in values.items():
            if name not in known:
                yield f"{where}.{name}"
            else:
                yield from unknown(value, known[name], f"{where}.{name}")


@pytest.mark.parametrize("name", RAY_FILES)
def test_ray_takes_the_file(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(read(name))))


def test_ray_would_refuse_a_misspelt_field():
    from ray.autoscaler._private.util import prepare_config, validate_config

    wrong = read("cluster.yaml")
    wrong["available_node_types"]["gpu"]["min_worker"] = 0
    with pytest.raises(Exception, match="min_worker"):
        validate_config(prepare_config(wrong))


def test_the_cloud_cluster_grows_from_a_head_that_runs_no_work():
    given = read("cluster.yaml")
    kinds = given["available_node_types"]
    assert given["head_node_type"] == "head" and kinds["head"]["resources"] == {"CPU": 0}
    workers = {name: kind for name, kind in kinds.items() if name != "head"}
    assert {kind["min_workers"] for kind in workers.values()} == {0} and "GPU" in workers["gpu"]["resources"]
    assert "GPU" not in workers["cpu"]["resources"]
    assert given["max_workers"] <= sum(kind["max_workers"] for kind in workers.values())


@pytest.mark.parametrize("name", RAY_FILES)
def test_every_machine_asks_for_the_token_and_the_head_can_grow_the_cluster(name):
    given = read(name)
    starts = [given["head_start_ray_commands"][-1], given["worker_start_ray_commands"][-1]]
    for command in starts:
        assert "RAY_AUTH_MODE=token" in command and "RAY_AUTH_TOKEN_PATH=$HOME/.ray/auth_token" in command
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in starts[0] and "--dashboard-host=127.0.0.1" in starts[0]
    assert any(there.endswith("/.ray/auth_token") for there in given["file_mounts"])
    for command in starts:
        options = re.findall(r"--([a-z-]+)", command)
        assert set(options) <= ray_start_options(), command


def ray_start_options() -> set[str]:
    """Of `ray start`."""
    from ray.scripts.scripts import start

    return {name.removeprefix("--") for option in start.params for name in option.opts}


@pytest.mark.parametrize("name", KUBERAY_FILES)
def test_kuberay_knows_every_field(name):
    given = read(name)
    assert list(unknown(given, FIELDS[given["kind"]])) == []
    assert given["apiVersion"] == "ray.io/v1"
    cluster = given["spec"].get("rayClusterSpec", given["spec"])
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())  # the schema wants strings
        assert set(group["rayStartParams"]) <= ray_start_options()
        pod = group["template"]["spec"]
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    for group in cluster["workerGroupSpecs"]:
        assert 0 == group["minReplicas"] <= group["replicas"] < group["maxReplicas"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["authOptions"]["mode"] == "token" and cluster["enableInTreeAutoscaling"] is True


def test_an_unknown_field_would_be_found():
    given = read("clusters/kuberay/rayjob.yaml")
    given["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]["maxReplica"] = 1
    given["spec"]["ttlSeconds"] = 1
    assert set(unknown(given, FIELDS["RayJob"])) == {".spec.rayClusterSpec.workerGroupSpecs[1].maxReplica", ".spec.ttlSeconds"}


def test_the_kubernetes_job_goes_on_after_a_lost_cluster_and_leaves_none_behind():
    job, cluster = read("clusters/kuberay/rayjob.yaml")["spec"], read("clusters/kuberay/raycluster.yaml")["spec"]
    assert job["backoffLimit"] > 0 and job["shutdownAfterJobFinishes"] is True and job["submissionMode"] in SUBMISSION_MODES
    assert job["rayClusterSpec"] == cluster  # two files of one cluster


def commands() -> list[tuple[str, str]]:
    """(file, command of rayseg) of the entry point and of every command in a comment."""
    found = [("clusters/kuberay/rayjob.yaml", read("clusters/kuberay/rayjob.yaml")["spec"]["entrypoint"])]
    for name in (*RAY_FILES, *KUBERAY_FILES, "Dockerfile"):
        comments = "\n".join(re.findall(r"^#\s*(.*)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))
        joined = re.sub(r"\\\n\s*", "", comments)
        found += [(name, line) for line in joined.splitlines() if re.search(r"\brayseg (submit|segment|jobs|verify) ", line)]
    return found


def test_commands_are_found_in_every_file():
    assert {name for name, _ in commands()} >= {*RAY_FILES, *KUBERAY_FILES[:1], "Dockerfile", KUBERAY_FILES[1]}


@pytest.mark.parametrize("name, line", commands())
def test_rayseg_understands_the_command(name, line):
    words = shlex.split(line.partition(" rayseg.cli ")[2] if " rayseg.cli " in line else line[line.index("rayseg ") + 7 :])
    args = _parser().parse_args(words)
    if args.run is submit.await_machines:
        args = _parser().parse_args(args.arguments)
    elif args.run is submit.submit:
        from rayseg.cli.submit import check_arguments

        check_arguments(args)
    assert callable(args.run)


def test_a_command_with_an_unknown_flag_would_be_refused():
    from rayseg.cli.submit import check_arguments

    args = _parser().parse_args(["submit", "segment", "s3://a", "b", "--model", "/m", "--installed"])
    with pytest.raises(ConfigError, match="OUT b"):
        check_arguments(args)


@pytest.mark.parametrize("name", [*RAY_FILES, *KUBERAY_FILES, "Dockerfile"])
def test_versions_are_those_of_the_project(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    least = next(re.search(r">=([\d.]+)", need)[1] for need in PROJECT["dependencies"] if need.startswith("ray["))
    rays = re.findall(r"(?:ray\[data,default,train,tune\]==|rayVersion: \"|RAY_VERSION=)(\d[\d.]*)", text)
    assert rays and {version.rsplit(".", 1)[0] for version in rays} == {least}
    ours = re.findall(r"rayseg(?:-|:)(\d+\.\d+\.\d+)", text)
    assert ours and set(ours) == {PROJECT["version"]}
    extras = {extra for found in re.findall(r"(?:\.whl\)\[|EXTRAS=)([a-z0-9,]+)", text) for extra in found.split(",")}
    assert extras <= set(PROJECT["optional-dependencies"])
    index = set(re.findall(r"https://www\.paddlepaddle\.org\.cn/packages/stable/cu\d+/", text))
    assert index <= set(re.findall(r"https://\S+/cu\d+/", (ROOT / "pyproject.toml").read_text()))


@pytest.mark.parametrize("name", RAY_FILES)
def test_the_python_that_is_installed_is_one_that_rayseg_supports(name):
    versions = set(re.findall(r"python(3\.\d+)", (ROOT / name).read_text(encoding="utf-8")))
    assert versions == {PROJECT["requires-python"].removeprefix(">=")}


def instructions() -> list[tuple[str, str]]:
    """(instruction, the rest) of the Dockerfile, continued lines joined, comments left out."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in lines) if word]


def test_the_image_has_a_base_that_is_named_and_a_user_who_is_not_root():
    found = instructions()
    bases = [rest.split()[0] for word, rest in found if word == "FROM"]
    python = PROJECT["requires-python"].removeprefix(">=")
    assert len(bases) == 2 and all(re.fullmatch(rf"python:{python}-slim-\w+", base) for base in bases) and len(set(bases)) == 1
    users = [rest for word, rest in found if word == "USER"]
    assert users and users[-1] not in ("root", "0")
    assert any(word == "RUN" and f"useradd --create-home --uid 1000 {users[-1]}" in rest for word, rest in found)
    assert "latest" not in str(found) and all(word != "ADD" for word, _ in found)
    known = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "USER", "CMD"}
    assert {word for word, _ in found} <= known


def test_the_image_copies_what_is_there_and_cleans_up_after_itself():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                path = source.removeprefix("./")
                assert (ROOT / path).exists() and f"!{path}" in ignored, source
        if word == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest and rest.endswith("rm -rf /var/lib/apt/lists/*")
            assert rest.startswith("apt-get update")
        if word == "RUN" and "pip install" in rest:
            assert "--no-cache-dir" in rest and "${RAY_VERSION}" in rest and "${EXTRAS}" in rest


def test_the_image_starts_with_a_command_that_exists():
    command = json.loads(next(rest for word, rest in instructions() if word == "CMD"))
    with pytest.raises(SystemExit) as ended:
        _parser().parse_args(command[1:])
    assert ended.value.code == 0 and command[0] in PROJECT["scripts"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_image_is_built_and_runs_where_there_is_docker():
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("no Docker here, or its daemon does not answer")
    subprocess.run([docker, "build", "-q", "-t", "rayseg:test", str(ROOT)], check=True, timeout=1500)
    said = subprocess.run([docker, "run", "--rm", "rayseg:test", "rayseg", "models"], capture_output=True, text=True, check=True)
    assert "MaskRCNN-ResNet50" in said.stdout
