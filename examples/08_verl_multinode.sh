#!/usr/bin/env bash
# verl with pruning on several nodes. Every node needs the same environment, the same files and an address that the others
# can reach. head and join stay in the foreground; interrupt them to stop Ray on their node.
#
#     node 0:   bash examples/08_verl_multinode.sh head 10.0.0.1
#     node 1:   bash examples/08_verl_multinode.sh join 10.0.0.1 10.0.0.2
#     node 0:   bash examples/08_verl_multinode.sh train 10.0.0.1 trainer.nnodes=2 <your overrides> +arrol.probe_tokens=512
#
# More arguments of head and join go to ray start (--num-gpus=8). PORT (6379) is Ray's; PYTHON the environment's.
# Ray asks every process for a token: "ray get-auth-token --generate" makes one; give every node the same file, at
# ~/.ray/auth_token or where RAY_AUTH_TOKEN_PATH points to.
set -euo pipefail
verb=${1:?head, join or train} head=${2:?address of node 0}
PYTHON=${PYTHON:-python} PORT=${PORT:-6379}
RAY=$(dirname "$(command -v "$PYTHON")")/ray
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
shift 2

case $verb in
  head)
    exec "$RAY" start --head --block --disable-usage-stats --include-dashboard=false \
      --node-ip-address="$head" --port="$PORT" "$@"
    ;;
  join)
    here=${1:?address of this node}
    shift
    exec "$RAY" start --block --disable-usage-stats --address="$head:$PORT" --node-ip-address="$here" "$@"
    ;;
  train)
    derived=$("$PYTHON" -m arrol.integrations.verl "$@")
    printf 'derived lines:\n%s\n' "$derived"
    # shellcheck disable=SC2086  # one override per word
    RAY_ADDRESS=$head:$PORT exec "$PYTHON" -m verl.trainer.main_ppo "$@" $derived
    ;;
  *)
    echo "verb = $verb: use head, join or train" >&2
    exit 2
    ;;
esac
