/**
 * The guest's first process, for busybox's shell. It loads drivers, mounts what `/setup` says, and
 * then runs commands as the host asks over a virtio-serial port:
 *
 *     host → guest   run TOKEN null|port BASE64     a shell script, its input /dev/null or "stdin"
 *                    shell TOKEN BASE64             after the script, a shell on the console hvc0
 *                    shutdown
 *     guest → host   ready
 *                    failed TEXT                    could not be set up
 *                    exit CODE
 *
 * A command's output goes through the ports "stdout" and "stderr", each ended by TOKEN; through
 * pipes, so that a command may open /dev/stdout again, which a port would refuse. A command's
 * processes end with it. The guest switches itself off when the host goes away: the port "alive"
 * then reads as ended.
 */
export const INIT = `#!/bin/busybox sh
/bin/busybox mkdir -p /dev /proc /sys /run /tmp /root
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
hostname guest
ip link set lo up

for module in /modules/*; do
  insmod "$module" 2>/run/log || echo "init: insmod $module: $(cat /run/log)"
done

console=/dev/hvc0
read_input() { cat; }
hold() { :; }

# The port with a name, which the driver may still be about to find.
port() {
  tries=0
  while [ $tries -lt 500 ]; do
    for port in /sys/class/virtio-ports/*; do
      if [ "$(cat "$port/name" 2>/dev/null)" = "$1" ] && [ -c "/dev/\${port##*/}" ]; then
        echo "/dev/\${port##*/}"
        return
      fi
    done
    tries=$((tries + 1))
    usleep 20000
  done
  echo "init: no port $1: this kernel lacks virtio_pci or virtio_console" >/dev/console
  poweroff -nf
}

. /transport

control=$(port control)
alive=$(port alive)
stdin=$(port stdin)
stdout=$(port stdout)
stderr=$(port stderr)
exec 3<>"$control"
hold
(exec 3>&- 5>&- 6>&- 7>&- 4<"$alive"; read -r end <&4; poweroff -nf) &
guard=$!

fail() {
  echo "failed $*" >&3
  read -r answer <&3
  poweroff -nf
}

share() { # TAG MOUNT_POINT OPTIONS
  mkdir -p "$2" || fail "mkdir $2"
  mount -t virtiofs -o "$3" "$1" "$2" 2>/run/log || fail "mount -t virtiofs -o $3 $1 $2: $(cat /run/log)"
}

# The share mounted at $1 becomes the root of commands, under a layer in memory that takes what they write.
root_on() {
  mkdir -p /layer /root-of-commands
  mount -t tmpfs layer /layer
  mkdir /layer/upper /layer/work
  mount -t overlay -o "lowerdir=$1,upperdir=/layer/upper,workdir=/layer/work" overlay /root-of-commands 2>/run/log ||
    fail "mount -t overlay: $(cat /run/log)"
  root=/root-of-commands
  for folder in dev proc sys run tmp; do mkdir -p "$root/$folder"; done
  for folder in dev proc sys; do mount -o rbind "/$folder" "$root/$folder"; done
  for folder in run tmp; do mount -t tmpfs "$folder" "$root/$folder"; done
}

# The share mounted at $1 is the root of commands itself; what they write there goes to it.
root_is() {
  root=$1
  for folder in dev proc sys run; do mkdir -p "$root/$folder"; done
  for folder in dev proc sys; do mount -o rbind "/$folder" "$root/$folder"; done
  mount -t tmpfs run "$root/run"
}

root=
. /setup

# Becomes a shell, in the root of commands, that runs a script. Before: a program to start it by.
enter() { # SCRIPT PROGRAM...
  script=$1
  shift
  exec 3>&- 5>&- 6>&- 7>&-
  [ -n "$root" ] || exec "$@" sh -c "$script"
  export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  exec "$@" chroot "$root" /bin/sh -c "$script"
}

# Ends every process but those named and the kernel's own, which don't mind.
end_all_but() {
  for process in /proc/[0-9]*; do
    case " 1 $guard $* " in
      *" \${process#/proc/} "*) ;;
      *) kill -9 "\${process#/proc/}" 2>/dev/null ;;
    esac
  done
}

mkfifo /run/stdin /run/stdout /run/stderr

run() { # TOKEN INPUT SCRIPT
  cat /run/stdout >"$stdout" 3>&- & out=$!
  cat /run/stderr >"$stderr" 3>&- & err=$!
  input=/dev/null
  if [ "$2" = port ]; then
    input=/run/stdin
    read_input <"$stdin" >/run/stdin 3>&- &
  fi
  (enter "$(echo "$3" | base64 -d)") <$input >/run/stdout 2>/run/stderr
  code=$?
  end_all_but $out $err
  wait $out $err
  echo -n "$1" >"$stdout"
  echo -n "$1" >"$stderr"
  echo "exit $code" >&3
}

shell() { # TOKEN SCRIPT
  (enter "$(echo "$2" | base64 -d)" setsid -c) <"$console" >"$console" 2>&1
  code=$?
  end_all_but
  echo -n "$1" >"$console"
  echo "exit $code" >&3
}

echo ready >&3
while read -r verb token input script <&3; do
  case $verb in
    run) run "$token" "$input" "$script" ;;
    shell) shell "$token" "$input" ;;
    *) break ;;
  esac
done
cd /
umount -t virtiofs -a 2>/dev/null
sync
poweroff -nf
`;
