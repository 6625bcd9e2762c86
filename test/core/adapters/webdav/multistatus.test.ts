import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readMultistatus } from '../../../../core/adapters/webdav/multistatus.js';

function answer(...responses: readonly string[]): string {
  return `<?xml version="1.0"?>\n<D:multistatus xmlns:D="DAV:">${responses.join('\n')}</D:multistatus>`;
}

test('an answer is read whatever its prefixes, spaces, entities and sections are', async () => {
  const xml = answer(
    `<D:response xmlns:lp1="DAV:"><D:href>/a&amp;b/%C3%B6&#x20;</D:href><D:propstat><D:prop>
       <lp1:getcontentlength> 12 </lp1:getcontentlength><lp1:resourcetype/>
       <lp1:getlastmodified>Mon, 30 Nov 2026 02:00:00 GMT</lp1:getlastmodified>
       </D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>`,
    `<!-- a > comment --><D:response><D:href><![CDATA[/c<d>/]]></D:href><D:propstat><D:prop>
       <D:resourcetype><D:collection/></D:resourcetype></D:prop></D:propstat>
       <D:location><D:href>/elsewhere</D:href></D:location></D:response>`,
  );
  assert.deepEqual(await readMultistatus(xml), [
    { href: '/a&b/%C3%B6', isCollection: false, length: 12, modified: Date.UTC(2026, 10, 30, 2) / 1000 },
    { href: '/c<d>/', isCollection: true, length: undefined, modified: undefined },
  ]);
  const plain = '<multistatus xmlns="DAV:"><response><href>/x</href></response></multistatus>';
  assert.deepEqual(await readMultistatus(plain), [
    { href: '/x', isCollection: false, length: undefined, modified: undefined },
  ]);
});

test('what is cut off, crossed or something else is no answer', async () => {
  assert.equal(await readMultistatus(''), undefined);
  assert.equal(await readMultistatus('<html><body>no such page</body></html>'), undefined);
  assert.equal(await readMultistatus('<multistatus><response><href>/x</href>'), undefined);
  assert.equal(await readMultistatus('<multistatus><response></multistatus></response>'), undefined);
});

test('an entity of its own is not expanded, and a size that is none is not taken', async () => {
  const bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>';
  const xml = `${bomb}${answer('<D:response><D:href>/&b;</D:href><D:getcontentlength>-1</D:getcontentlength></D:response>')}`;
  // Whatever becomes of the declaration, nothing is expanded.
  for (const { href, length } of (await readMultistatus(xml)) ?? []) {
    assert.equal(href, '/&b;');
    assert.equal(length, undefined);
  }
});

// A reader that goes back for each piece would not end within a test's time.
test('an answer of nothing but beginnings is read in one pass', async () => {
  for (const piece of ['<!--', '<![CDATA[', '<a ', '<', '<!', '</', '<!--x-->', '&#1', '<a b>', '<a/>'])
    assert.deepEqual(await readMultistatus(`<multistatus>${piece.repeat(2 ** 18)}`), undefined, piece);
});

test('others have the thread while a long answer is read', async () => {
  const long = ['<a/>', '<!---->', '<a></a>'].map(
    (piece) => `<multistatus>${piece.repeat(2 ** 16)}</multistatus>`,
  );
  for (const xml of long) {
    let turns = 0;
    const others = setInterval(() => (turns += 1), 0);
    assert.deepEqual(await readMultistatus(xml), []);
    clearInterval(others);
    assert.ok(turns > 0, xml.slice(0, 30));
  }
});

test('what no server says of a file is no answer: endless names, elements without end', async () => {
  assert.equal(
    await readMultistatus(answer(`<response><href>/${'x'.repeat(2 ** 17)}</href></response>`)),
    undefined,
  );
  const deep = 1000;
  assert.equal(await readMultistatus(answer('<a>'.repeat(deep) + '</a>'.repeat(deep))), undefined);
});
