<?php
// What the page of the web application does, in plain PHP: the session's row is read, the page is made.
$db = new PDO(getenv('PDO_DSN'), getenv('PDO_USER'), getenv('PDO_PASSWORD'),
    [PDO::ATTR_PERSISTENT => true, PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
$read = $db->prepare('SELECT data FROM php_session WHERE id = ?');
$read->execute([$_COOKIE['PHPSESSID'] ?? 'session-00000001']);
$data = $read->fetchColumn();
$data = is_resource($data) ? stream_get_contents($data) : (string) $data;
header('Content-Type: text/html; charset=utf-8');
echo "<!doctype html><html lang=\"en\"><head><title>Session</title></head><body><h1>Session</h1><table>";
foreach (explode(';', $data) as $part) {
    echo '<tr><td>', htmlspecialchars($part), '</td></tr>';
}
echo '</table></body></html>';
