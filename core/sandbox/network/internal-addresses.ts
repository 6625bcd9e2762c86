import { BlockList, isIP } from 'node:net';

const INTERNAL_IPV4 = [
  '0.0.0.0/8',
  '10.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '172.16.0.0/12',
  '192.0.0.0/24',
  '192.168.0.0/16',
  '198.18.0.0/15',
  '224.0.0.0/3',
];

/** Without `::ffff:0:0/96`, by which node:net would take every IPv4 address for one of these. */
const INTERNAL_IPV6 = [
  '::/127',
  '64:ff9b::/96',
  '64:ff9b:1::/48',
  '2002::/16',
  'fc00::/7',
  'fe80::/10',
  'fec0::/10',
  'ff00::/8',
];

const internal = new BlockList();
for (const range of [...INTERNAL_IPV4, ...INTERNAL_IPV6]) {
  const [address = '', bits] = range.split('/');
  internal.addSubnet(address, Number(bits), address.includes(':') ? 'ipv6' : 'ipv4');
}

/**
 * Whether an address is not of the public network (RFC 6890 and its like). `::ffff:10.0.0.1` is
 * what `10.0.0.1` is.
 */
export function isInternal(address: string): boolean {
  return internal.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4');
}
