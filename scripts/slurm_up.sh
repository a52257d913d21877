#!/usr/bin/env bash
# A private Slurm on this one machine for tests: two nodes of two fake GPUs each, no systemd, no cgroups, no database. Needs root.
#   scripts/slurm_up.sh up | down | stop NAME | start NAME | kill NAME      NAME: slurmctld, n1 or n2
# The folder is $SLURM_TEST_HOME; clients need SLURM_CONF=$SLURM_TEST_HOME/slurm.conf.
set -euo pipefail

home=${SLURM_TEST_HOME:?names the folder of the private Slurm}
port=${SLURM_TEST_PORT:-26817}
nodes=(n1 n2)
export SLURM_CONF=$home/slurm.conf

pid_of() { cat "$home/$1.pid" 2>/dev/null || true; }

# A zombie is not alive: in a container nobody may wait for daemons.
is_alive() {
  local pid; pid=$(pid_of "$1")
  [ -n "$pid" ] && grep -q '^State:.[^ZX]' "/proc/$pid/status" 2>/dev/null
}

write_conf() {
  local host; host=$(hostname -s)
  cat >"$home/slurm.conf" <<CONF
ClusterName=coldframe-test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$home/munge/socket
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool-%n
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/%n.pid
SlurmctldLogFile=$home/slurmctld.log
SlurmdLogFile=$home/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
# Without cgroups Slurm looks at the memory of a job by itself, each second, and kills what takes more than it was given.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
DefMemPerNode=4000
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ReturnToService=2
JobRequeue=1
KillWait=2
SlurmctldTimeout=10
SlurmdTimeout=6
MessageTimeout=5
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=4 RealMemory=32000 Gres=gpu:2
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=4 RealMemory=32000 Gres=gpu:2
# A job in urgent takes the nodes of one in test, which has GraceTime to end in order and waits in the queue again.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=test Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10
CONF
  echo "NodeName=n[1-2] Name=gpu File=$home/gpu[0-1]" >"$home/gres.conf"
  printf 'CgroupMountpoint=/sys/fs/cgroup\nCgroupAutomount=no\n' >"$home/cgroup.conf"
}

# Twins of /dev/null: Slurm only asks that the device files are there.
make_gpus() {
  for number in 0 1; do [ -e "$home/gpu$number" ] || mknod "$home/gpu$number" c 1 3; done
}

start() {
  is_alive "$1" && return
  case $1 in
    munged)
      (umask 077 && head -c 1024 /dev/urandom >"$home/munge/key")
      rm -f "$home"/munge/socket*
      chown -R munge: "$home/munge"
      runuser -u munge -- munged --force --socket="$home/munge/socket" --key-file="$home/munge/key" \
        --pid-file="$home/munge/pid" --log-file="$home/munge/log" --seed-file="$home/munge/seed"
      cp "$home/munge/pid" "$home/munged.pid" ;;
    slurmctld) slurmctld -f "$SLURM_CONF" ;;
    *) slurmd -f "$SLURM_CONF" -N "$1" ;;
  esac
}

end() { # SIGNAL NAME
  is_alive "$2" || return 0
  kill "-$1" "$(pid_of "$2")"
  for _ in $(seq 100); do is_alive "$2" || return 0; sleep 0.1; done
  kill -KILL "$(pid_of "$2")"
}

# A node that found a job twice, because the controller had forgotten its start, is drained until somebody looks at it.
wait_for_nodes() {
  for _ in $(seq 150); do
    sinfo -h -N -p test -o '%N %T' 2>/dev/null | grep -E 'drain|down' | cut -d' ' -f1 | xargs -r -I{} scontrol update nodename={} state=resume 2>/dev/null || true
    [ "$(sinfo -h -N -p test -o %T 2>/dev/null | grep -cxE 'idle|mixed|allocated')" = ${#nodes[@]} ] && return
    sleep 0.1
  done
  echo "the nodes did not come up; see $home/*.log" >&2
  exit 1
}

up() {
  [ "$(id -u)" = 0 ] || { echo 'a Slurm of its own has to be started by root' >&2; exit 2; }
  "$(dirname "$0")/need.sh" 'slurmctld slurmd munged' slurm-wlm munge
  mkdir -p "$home/state" "$home/munge"
  chmod 755 "$home" # munged runs as a user of its own
  write_conf
  make_gpus
  for name in munged slurmctld "${nodes[@]}"; do start "$name"; done
  wait_for_nodes
}

case ${1:-} in
  up) up ;;
  down) for name in "${nodes[@]}" slurmctld munged; do end TERM "$name"; done ;;
  start) start "$2" ;;
  stop) end TERM "$2" ;;
  kill) end KILL "$2" ;;
  *) sed -n '2,4p' "$0" >&2; exit 2 ;;
esac
