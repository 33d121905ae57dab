<?php
// What the page of the web application does, in plain PHP: PHP's own session, kept in the table php_session over a persistent
// connection and not written if nothing has changed, and a page with the same parts.
final class Sessions implements SessionHandlerInterface, SessionUpdateTimestampHandlerInterface
{
    public function __construct(private PDO $db) {}
    public function open(string $path, string $name): bool { return true; }
    public function close(): bool { return true; }
    public function gc(int $lifetime): int|false { return 0; }
    public function destroy(string $id): bool
    {
        return $this->db->prepare('DELETE FROM php_session WHERE id = ?')->execute([$id]);
    }
    public function validateId(string $id): bool { return $id !== ''; }
    public function updateTimestamp(string $id, string $data): bool { return true; }
    public function read(string $id): string|false
    {
        $read = $this->db->prepare('SELECT data FROM php_session WHERE id = ?');
        $read->execute([$id]);
        $data = $read->fetchColumn();
        return is_resource($data) ? stream_get_contents($data) : (string) $data;
    }
    public function write(string $id, string $data): bool
    {
        $write = $this->db->prepare('INSERT INTO php_session (id, data, date_change) VALUES (?, ?, now())
            ON CONFLICT (id) DO UPDATE SET data = excluded.data, date_change = excluded.date_change');
        $write->bindValue(1, $id);
        $write->bindValue(2, $data, PDO::PARAM_LOB);
        return $write->execute();
    }
}

$db = new PDO(getenv('PDO_DSN'), getenv('PDO_USER'), getenv('PDO_PASSWORD'),
    [PDO::ATTR_PERSISTENT => true, PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
session_set_save_handler(new Sessions($db), true);
session_start();
header('Content-Type: text/html; charset=utf-8');
header("Content-Security-Policy: default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'");
header('X-Content-Type-Options: nosniff');
header('X-Frame-Options: DENY');
header('Referrer-Policy: same-origin');
$e = fn(string $text): string => htmlspecialchars($text, ENT_QUOTES);
$places = ['/items' => 'Items', '/servers' => 'Servers', '/' => 'Session', '/cluster' => 'Databases'];
$fields = ['name' => ['Name', 100, true], 'value' => ['Value', 10000, false]];
?>
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Your session · Kambana</title>
<link rel="stylesheet" href="/static/app.css">
<link rel="icon" type="image/svg+xml" href="/static/mark.svg">
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header class="top"><div>
<a class="brand" href="/"><svg class="mark" viewBox="2 4 28 24" aria-hidden="true"><path class="ml" d="M10 12 22 20" stroke-width="4" stroke-linecap="round"/><circle class="ma" cx="10" cy="12" r="7"/><circle class="mb" cx="22" cy="20" r="7"/></svg>Kambana</a>
<nav aria-label="Navigation"><ul>
<?php foreach ($places as $address => $label): ?>
<li><a href="<?= $e($address) ?>"<?= $address === '/' ? ' aria-current="page"' : '' ?>><?= $e($label) ?></a></li>
<?php endforeach ?>
</ul></nav>
<div class="end">
<a class="pair" href="/cluster" aria-label="Databases: a active" title="Databases: a active"><span class="dot active">a</span></a>
<span class="langs"><a href="/?lang=fr" lang="fr" hreflang="fr">Français</a></span>
</div>
</div></header>
<main id="main" tabindex="-1">
<h1>Your session</h1>
<p class="lead">What is kept for you between two pages. It is one row of the table php_session, in PHP's own format, in every database: whichever answers next knows it.</p>
<dl class="facts">
<dt>Session</dt><dd><code><?= $e(substr(session_id(), 0, 8)) ?>…</code></dd>
<dt>Answered by</dt><dd>php</dd>
<dt>Read from database</dt><dd>a</dd>
</dl>
<h2>Values</h2>
<?php if ($_SESSION === []): ?>
<div class="sheet empty"><p>Nothing is kept yet.</p></div>
<?php else: ?>
<form method="post" action="/session/remove">
<div class="sheet scroll"><table><thead><tr><th scope="col">Name</th><th scope="col">Value</th><th><span class="hidden">Actions</span></th></tr></thead><tbody>
<?php foreach ($_SESSION as $key => $value): ?>
<tr><td dir="auto"><strong><?= $e((string) $key) ?></strong></td><td dir="auto"><span class="text"><?= $e(is_string($value) ? $value : json_encode($value)) ?></span></td><td class="num"><button class="small quiet" name="key" value="<?= $e((string) $key) ?>" aria-label="Remove <?= $e((string) $key) ?>">Remove</button></td></tr>
<?php endforeach ?>
</tbody></table></div>
</form>
<?php endif ?>
<h2>Keep a value</h2>
<form class="form" method="post" action="/session/set" accept-charset="utf-8">
<?php foreach ($fields as $name => [$label, $max, $required]): ?>
<div class="field">
<label for="<?= $e($name) ?>"><?= $e($label) ?></label>
<input id="<?= $e($name) ?>" name="<?= $e($name) ?>" value="" maxlength="<?= $max ?>"<?= $required ? ' required' : '' ?> autocomplete="off" dir="auto">
</div>
<?php endforeach ?>
<div class="actions"><button class="primary">Save</button></div>
</form>
<h2>End the session</h2>
<p class="soft">Everything that is kept for you is deleted from every database.</p>
<form method="post" action="/session/destroy"><button>End the session</button></form>
</main>
<footer class="foot"><p><span>Instance php</span> <span>Database a</span> <span>Epoch 1</span></p></footer>
</body>
</html>
