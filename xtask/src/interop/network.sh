# A host with one interface, `va` at 10.77.0.1, that reaches nobody; $@ runs on it.
ip link set lo up
unshare --net sleep 1000 & neighbour=$!
trap 'kill $neighbour' EXIT
while [ "$(readlink /proc/$neighbour/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
ip link add va type veth peer name vb netns $neighbour
ip addr add 10.77.0.1/24 dev va
nsenter --net=/proc/$neighbour/ns/net ip link set vb up
ip link set va up multicast on
until ip link show va | grep -q 'state UP'; do sleep 0.01; done
# avahi-daemon wants to own a directory there; ours is not the machine's.
[ "$1" != --own-run ] || { shift; mount -t tmpfs none /run; }
"$@"
