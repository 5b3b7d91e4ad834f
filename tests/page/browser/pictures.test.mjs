// Every page in every light, on a desk and in a hand. Each is checked, and a picture taken of it.

import { after, before, test } from 'node:test';

import { EMPTY_URL, NIGHT_URL, READ_TOKEN, check, close, fits, isLive, launch, open, picture, signIn } from './support.mjs';

before(launch);
after(close);

const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };

const SCREENS = [
  ['light', { colorScheme: 'light' }],
  ['dark', { colorScheme: 'dark' }],
  ['phone-light', { ...PHONE, colorScheme: 'light' }],
  ['phone-dark', { ...PHONE, colorScheme: 'dark' }],
];

for (const [screen, options] of SCREENS) {
  test(`every page is whole and accessible: ${screen}`, async (t) => {
    const page = await open(t, NIGHT_URL, options);
    await page.goto('/');
    const look = async (name, expected) => {
      await picture(page, `${name}-${screen}`, { fullPage: true });
      await fits(page);
      await check(page, expected);
    };
    await look('sign-in');
    await signIn(page);
    await isLive(page);
    await look('overview');
    await page.goto('/provisions');
    await isLive(page);
    await look('list');
    await page.goto('/provisions?q=nobody-is-called-so&status=failed');
    await look('list-empty');
    await page.goto('/');
    await page.getByRole('link', { name: 'db-migrate-88' }).first().click();
    await isLive(page);
    await look('provision-stuck');
    await page.getByRole('link', { name: 'Destroy…' }).click();
    await page.getByRole('button', { name: 'Destroy it' }).waitFor();
    await look('destroy');
    await page.goto('/provisions?q=runner-arm-5');
    await page.getByRole('link', { name: 'runner-arm-5' }).click();
    await isLive(page);
    await look('provision-rerun');
    await page.goto('/provisions/00000000-0000-4000-8000-000000000000');
    await look('unknown', [/404/]);

    const empty = await open(t, EMPTY_URL, options);
    await signIn(empty, READ_TOKEN);
    await isLive(empty);
    await picture(empty, `overview-empty-${screen}`, { fullPage: true });
    await fits(empty);
    await check(empty);
  });
}

// What README shows: `readme-*` are copied to docs/images.
for (const colorScheme of ['light', 'dark']) {
  test(`pictures for README: ${colorScheme}`, { skip: !process.env.BACKSTOP_PICTURES }, async (t) => {
    const page = await open(t, NIGHT_URL, { colorScheme, viewport: { width: 1160, height: 800 } });
    await signIn(page);
    await isLive(page);
    await picture(page, `readme-overview-${colorScheme}`);
    await page.goto('/provisions?q=runner-arm-5');
    await page.getByRole('link', { name: 'runner-arm-5' }).click();
    await isLive(page);
    await page.setViewportSize({ width: 1160, height: 1120 });
    await picture(page, `readme-provision-${colorScheme}`);
  });
}
