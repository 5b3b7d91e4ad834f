// What people do with the page, in a browser, while things go wrong behind it.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';

import {
  BUSY_URL, OPERATOR_TOKEN, READ_TOKEN, Workflow, check, close, isLive, launch, open, road, signIn, sim, until,
} from './support.mjs';

before(launch);
after(close);

const REFUSED = [/Failed to load resource/, /ERR_/];
const card = (page, agent) => page.locator('.card', { hasText: agent });

test('a wrong token is refused without saying which, and the right one goes on to where it was going', async (t) => {
  const page = await open(t, BUSY_URL);
  await page.goto('/provisions?status=failed');
  assert.match(page.url(), /\/sign-in\?next=/);
  await page.getByLabel('Token').fill('nonsense');
  await page.keyboard.press('Enter');
  await page.getByRole('alert').getByText('neither the read token nor the operator token').waitFor();
  await check(page, [/403/]);
  await page.getByLabel('Token').fill(OPERATOR_TOKEN);
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Provisions' }).waitFor();
  assert.equal(new URL(page.url()).search, '?status=failed');
  assert.equal(await page.evaluate(() => document.cookie), '');

  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByLabel('Token').waitFor();
  await page.goto('/');
  await page.getByLabel('Token').waitFor();
});

test('a failure is rolled back before the eyes of who looks', async (t) => {
  const page = await open(t, BUSY_URL);
  await signIn(page);
  await isLive(page);
  const work = await new Workflow('live-1').make();
  const row = page.locator(`#way-${work.id}`);
  await row.getByText('vm_created').waitFor();
  await row.getByRole('link', { name: 'live-1' }).click();
  await page.getByText('provisioning').first().waitFor();
  await isLive(page);

  await page.locator('#timeline details').first().locator('summary').click();
  const loads = await page.evaluate(() => (window.sameDocument = true));
  assert.ok(loads);
  await work.fail();
  await page.getByText('all gone').waitFor();
  await page.getByText(`DELETE /servers/${work.ids.server_id} – accepted`).waitFor();
  await page.getByText('Attempt 1 is undone').waitFor();
  // Not loaded anew: what was unfolded stays so, and what changed was read out.
  assert.ok(await page.evaluate(() => window.sameDocument));
  assert.equal(await page.locator('#timeline details[open]').count(), 1);
  await until('it is said', async () => /is done, 6 of 6 steps/.test(await page.locator('#said').textContent()));
  await check(page);
});

test('what needs a person is retried with a button, and goes once the reason has', async (t) => {
  const page = await open(t, BUSY_URL);
  const work = await new Workflow('stuck-1').make();
  await sim('POST', `/sim/servers/${work.ids.server_id}/protect`, { delete: true });
  await work.fail();
  await signIn(page);
  const mine = card(page, 'stuck-1');
  await mine.getByText('Hetzner refuses: delete protection is on. Switch it off in the console, then retry.').waitFor();
  await sim('POST', `/sim/servers/${work.ids.server_id}/protect`, { delete: false });
  await mine.getByRole('button', { name: 'Retry now' }).click();
  await page.getByText('is tried again now').waitFor();
  assert.equal(new URL(page.url()).search, '');
  await mine.waitFor({ state: 'detached' });
  await check(page);
});

test('a machine in use is destroyed after a question', async (t) => {
  const page = await open(t, BUSY_URL);
  const work = await new Workflow('doomed-1').make();
  await work.callback('success', work.ids);
  await signIn(page, OPERATOR_TOKEN, `/provisions/${work.id}`);
  await page.getByRole('link', { name: 'Destroy…' }).click();
  await page.getByRole('dialog').getByText('The machine is in use.').waitFor();
  await page.keyboard.press('Escape');
  await page.getByRole('dialog').waitFor({ state: 'hidden' });
  await page.getByRole('link', { name: 'Destroy…' }).click();
  await page.getByRole('button', { name: 'Destroy it' }).click();
  await page.getByText('It is destroyed').waitFor();
  await page.getByText('all gone').waitFor();
  assert.equal(await page.getByRole('link', { name: 'Destroy…' }).count(), 0);
  await check(page);
});

test('the read token sees no buttons, and its session can change nothing', async (t) => {
  const page = await open(t, BUSY_URL);
  const work = await new Workflow('looked-at').make();
  await signIn(page, READ_TOKEN, `/provisions/${work.id}`);
  await page.getByText('read-only').waitFor();
  assert.deepEqual(await page.getByRole('button').allInnerTexts(), ['Sign out']);
  assert.equal(await page.getByRole('link', { name: 'Destroy…' }).count(), 0);
  await page.goto('/');
  assert.deepEqual(await page.getByRole('button').allInnerTexts(), ['Sign out']);
  await check(page);
  const status = await page.evaluate(
    async (id) => (await fetch(`/provisions/${id}/destroy`, { method: 'POST' })).status, work.id,
  );
  assert.equal(status, 403);
});

test('filters live in the address, and a search finds what people have in hand', async (t) => {
  const page = await open(t, BUSY_URL);
  const work = await new Workflow('needle-in-hay').make();
  await signIn(page, OPERATOR_TOKEN, '/provisions');
  await page.getByRole('link', { name: 'failed', exact: true }).click();
  await page.getByRole('navigation', { name: 'Rollback' }).getByRole('link', { name: 'needs you' }).click();
  assert.equal(new URL(page.url()).search, '?status=failed&rollback=stuck');
  await page.getByRole('link', { name: 'db-migrate-88' }).waitFor();
  assert.equal(await page.locator('tbody tr', { hasText: 'all gone' }).count(), 0);
  await page.goBack();
  assert.equal(new URL(page.url()).search, '?status=failed');

  for (const text of ['needle', 'in-hay', work.id.slice(0, 8), work.id, work.ids.server_id, String(work.run)]) {
    await page.goto('/provisions');
    await page.getByLabel('Search').fill(text);
    await page.keyboard.press('Enter');
    await page.getByRole('link', { name: 'needle-in-hay' }).waitFor();
    assert.equal(new URL(page.url()).search, `?q=${text}`);
    assert.equal(await page.locator('tbody tr').count(), 1, text);
  }
  await page.goto('/provisions?q=198.51.100.23');
  await page.getByRole('link', { name: 'needle-in-hay' }).waitFor();
  const run = page.locator(`#p-${work.id}`).getByRole('link', { name: /at GitHub/ });
  assert.equal(await run.getAttribute('href'), `https://github.com/example/agents/actions/runs/${work.run}`);
  await page.goto('/provisions');
  await page.getByRole('link', { name: 'Older' }).click();
  await page.getByRole('link', { name: 'Newest' }).waitFor();
  await check(page);
});

test('what is being typed and where somebody is stays as it is when the page changes', async (t) => {
  const page = await open(t, BUSY_URL);
  await signIn(page, OPERATOR_TOKEN, '/provisions');
  await isLive(page);
  const other = page.getByRole('link', { name: 'web-1', exact: true });
  await other.focus();
  await page.evaluate(() => { document.getElementById('q').value = 'half a wo'; scrollTo(0, 300); });
  const work = await new Workflow('comes-in-above').make();
  await page.locator(`#p-${work.id}`).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.textContent), 'web-1');
  assert.equal(await page.getByLabel('Search').inputValue(), 'half a wo');
  assert.ok(await page.evaluate(() => scrollY > 0));
});

test('a stream that is cut is said to be, and what was missed is there when it is back', async (t) => {
  const way = await road(t, BUSY_URL);
  const page = await open(t, way.url);
  await signIn(page);
  await isLive(page);
  way.cut();
  await page.getByText('backstop has not answered since').waitFor();
  await page.locator('#state[data-state="away"]').waitFor();
  const work = await new Workflow('missed').make();
  await work.fail('enrol', 'while nobody could look');
  way.mend();
  await isLive(page);
  await page.locator(`#failed-${work.id}`).getByText('while nobody could look').waitFor();
  await page.locator('#away').waitFor({ state: 'hidden' });
  await check(page, REFUSED);
});

test('while only the stream is down the page says so and looks by the clock', async (t) => {
  const page = await open(t, BUSY_URL);
  await page.route('**/v1/stream', (route) => route.abort());
  await page.clock.install();
  await signIn(page);
  await page.locator('#state[data-state="polling"]').getByText('Stream down since').waitFor();
  const work = await new Workflow('polled').make();
  await until('it is looked at', async () => {
    await page.clock.runFor(11_000);
    return page.locator(`#way-${work.id}`).count();
  });
  await check(page, REFUSED);
});

test('a session that ends says so, and keeps what was there', async (t) => {
  const page = await open(t, BUSY_URL);
  await signIn(page, OPERATOR_TOKEN, '/provisions?q=web-1');
  await isLive(page);
  await page.context().clearCookies();
  await new Workflow('changes-something').make();
  await page.getByText('Your session has ended').waitFor();
  await page.getByRole('link', { name: 'web-1', exact: true }).waitFor();
  await page.getByRole('link', { name: 'Sign in again' }).click();
  await page.getByLabel('Token').fill(READ_TOKEN);
  await page.keyboard.press('Enter');
  await page.getByRole('link', { name: 'web-1', exact: true }).waitFor();
  await check(page, REFUSED);
});

test('all of it can be read and done without a script', async (t) => {
  const page = await open(t, BUSY_URL, { javaScriptEnabled: false });
  const work = await new Workflow('scriptless').make();
  await work.callback('success', work.ids);
  await signIn(page);
  await page.getByText(/as of \d\d:\d\d:\d\d UTC/).waitFor();
  await page.goto('/provisions?q=scriptless');
  await page.getByRole('link', { name: 'scriptless' }).click();
  await page.getByRole('link', { name: 'Destroy…' }).click();
  await page.getByRole('heading', { name: 'Destroy scriptless?' }).waitFor();
  await page.getByRole('button', { name: 'Destroy it' }).click();
  await page.getByText('It is destroyed').waitFor();
  assert.deepEqual(page.errors, []);
});

test('another site can link to a page and can post to none', async (t) => {
  const work = await new Workflow('from-a-pager').make();
  const target = `${BUSY_URL}/provisions/${work.id}`;
  const elsewhere = createServer((_, answer) => {
    answer.setHeader('content-type', 'text/html');
    answer.end(`<a href="${target}">look</a><form method="post" action="${target}/destroy"><button>steal</button></form>`);
  });
  await new Promise((resolve) => elsewhere.listen(0, '127.0.0.1', resolve));
  t.after(() => elsewhere.close());
  // By another name, and so another site.
  const site = `http://localhost:${elsewhere.address().port}/`;

  const page = await open(t, BUSY_URL);
  await signIn(page);
  await page.goto(site);
  await page.getByRole('link', { name: 'look' }).click();
  await page.getByRole('heading', { name: 'from-a-pager' }).waitFor();
  await page.goto(site);
  await page.getByRole('button', { name: 'steal' }).click();
  await page.getByText('this did not come from a page of ours').waitFor();
  await page.goto(target);
  await page.getByText('provisioning').first().waitFor();

  const stranger = await open(t, BUSY_URL);
  await stranger.goto(site);
  await stranger.getByRole('link', { name: 'look' }).click();
  await stranger.getByLabel('Token').waitFor();
});

test('a keyboard is enough', async (t) => {
  const page = await open(t, BUSY_URL);
  await signIn(page);
  await isLive(page);
  await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'main');
  // The first thing in it that can be reached is the first tile.
  await page.keyboard.press('Tab');
  assert.match(await page.evaluate(() => document.activeElement.textContent), /queued/);
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Provisions' }).waitFor();
  assert.equal(new URL(page.url()).search, '?status=queued');
});
