# A Slurm cluster of one node, on this machine, for lanes that try job files. Source it after lib.sh.
# shellcheck shell=bash

# slurm_need FOLDER: starts munged, slurmctld and slurmd, all they write in FOLDER; `sbatch` finds them. slurm_stop ends those that were started.
slurm_need() {
    [ "$(id -u)" = 0 ] || die "a Slurm cluster of this machine's own needs root"
    apt_need slurm-wlm munge
    slurm=$1
    mkdir -p "$slurm/state" "$slurm/spool" /run/munge
    chown munge /run/munge
    [ -f /etc/munge/munge.key ] || mungekey
    pgrep -x munged >/dev/null || { su -s /bin/sh munge -c munged && own_munged=1; }
    local host
    host=$(hostname -s)
    cat >"$slurm/slurm.conf" <<END
ClusterName=lane
SlurmctldHost=$host
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SlurmUser=root
StateSaveLocation=$slurm/state
SlurmdSpoolDir=$slurm/spool
SlurmctldPidFile=$slurm/slurmctld.pid
SlurmdPidFile=$slurm/slurmd.pid
SlurmctldLogFile=$slurm/slurmctld.log
SlurmdLogFile=$slurm/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName=$host CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
END
    export SLURM_CONF=$slurm/slurm.conf
    slurmctld
    slurmd -N "$host"
    for _ in {1..60}; do
        ! sinfo -h -o %t 2>/dev/null | grep -q idle || return 0
        sleep 0.5
    done
    die "Slurm did not start: $(tail -n 3 "$slurm/slurmctld.log" "$slurm/slurmd.log")"
}

slurm_stop() {
    local name
    [ -z "${own_munged:-}" ] || pkill -x munged || true
    for name in slurmd slurmctld; do
        [ ! -f "${slurm:-}/$name.pid" ] || kill "$(cat "$slurm/$name.pid")" 2>/dev/null || true
    done
}
